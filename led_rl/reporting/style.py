"""How the report's figures look, and how they say that something is missing.

Colours follow the name: what is called LED is teal in every figure, standard blue, the control ochre, the base grey.
"""

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from led_rl.evaluation.estimates import Floats
from led_rl.reporting.histories import smooth, smoothing_window

INK, FAINT = "#1f2933", "#7b8794"
HIGHER, LOWER = "#0b8074", "#b5495b"  # a difference whose interval lies above, below zero
NAMED_COLOURS = {"led": "#0b8074", "control": "#c47f17", "standard": "#3f6fb5", "base": "#7b8794"}
OTHER_COLOURS = ("#8e5ea2", "#b5495b", "#5b7c2e", "#2f4858")
MARKERS = "osD^v"
WIDTH = 10.0  # inches
styled = rc_context(
    {
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": "#cbd2d9",
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e9edf1",
        "text.color": INK,
        "text.parse_math": False,  # labels are text, even with a dollar sign
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "figure.facecolor": "white",
        "svg.fonttype": "path",
        "svg.hashsalt": "led-rl",  # the same data give the same file
    }
)


def colour(label: str, index: int = 0) -> str:
    """The colour of a known name in the label, otherwise the `index`-th of the other colours; a hex code."""
    words = label.lower().replace("_", "-").replace(" ", "-").split("-")
    for name, value in NAMED_COLOURS.items():
        if name in words:
            return value
    return OTHER_COLOURS[index % len(OTHER_COLOURS)]


def new_figure(panels: int, height: float, share_y: bool = False, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of WIDTH inches with `panels` axes in `rows` of `height` inches, which they fill."""
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    return figure, list(figure.subplots(rows, panels // rows, squeeze=False, sharey=share_y).flat)


def draw_series(axes: Axes, steps: Floats, values: Floats, shade: str, label: str, line: str = "-") -> None:
    """Raw values thin, their centred mean thick over them; short runs show their points."""
    if smoothing_window(len(values)) > 1:
        axes.plot(steps, values, color=shade, lw=0.8, alpha=0.4)
        axes.plot(steps, smooth(values), line, color=shade, lw=2, label=label)
    else:
        axes.plot(steps, values, line, color=shade, lw=1.5, marker="o", markersize=3.5, label=label)


def legend_on_top(figure: Figure, axes: Axes) -> None:
    """One legend for all panels, above them, from the labels of one."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=len(handles))


def say(axes: Axes, text: str) -> None:
    """Puts a message where data would be."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT, wrap=True)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)


def whole_steps(axes: Axes) -> None:
    """Ticks of the x axis at integers alone."""
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def percent_axis(axes: Axes) -> None:
    """Labels the y axis, whose values are shares of 1, in percent."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
