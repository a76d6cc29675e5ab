"""The figure of `led-rl benchmark-trainer`: where the seconds of a step go, and its ratio to TRL's."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from led_rl.benchmarks.trainer_results import LIMIT, PARTS, STANDARD, TRL, Summary
from led_rl.reporting.style import FAINT, INK, NAMED_COLOURS, OTHER_COLOURS, legend_on_top, new_figure, say, styled

SHADES = (NAMED_COLOURS["standard"], *OTHER_COLOURS[:2], NAMED_COLOURS["control"], "#cbd2d9")


@styled
def trainer_figure(summaries: Sequence[Summary]) -> Figure:
    """Left: where the seconds of a step go. Right: ratio to TRL's, with the limit."""
    figure, (split, ratio) = new_figure(2, height=1.3 + 0.45 * max(2, len(summaries)))
    if not any(summary.time for summary in summaries):
        for axes in (split, ratio):
            say(axes, "no round was complete")
        return figure
    names = [summary.arm.replace("_", " ") for summary in summaries]
    left = [0.0] * len(summaries)
    for part, shade in zip(PARTS, SHADES, strict=True):
        widths = [summary.split.get(part, 0.0) for summary in summaries]
        split.barh(names, widths, left=left, color=shade, height=0.6, label=part.replace("_", " "))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    split.set(title="a training step", xlabel="seconds (of TRL's, reward and training are not told apart)")
    split.invert_yaxis()
    _draw_ratios(ratio, summaries)
    for axes in (split, ratio):
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.grid(axis="y", visible=False)
    legend_on_top(figure, split)
    return figure


def _draw_ratios(axes: Axes, summaries: Sequence[Summary]) -> None:
    axes.axvline(1, color=FAINT, lw=1)
    axes.axvline(LIMIT, color=FAINT, lw=1, ls="--", label=f"{LIMIT:g}")
    for place, summary in enumerate(summaries):
        if summary.time is None:
            continue
        shade = NAMED_COLOURS["base" if summary.arm == TRL else "standard" if summary.arm == STANDARD else "led"]
        axes.plot(summary.time.quartiles, [place, place], color=shade, lw=2.4, solid_capstyle="butt")
        axes.plot(summary.time.median, place, "o", color=shade, markersize=6)
    names = ["trl again" if summary.arm == TRL else summary.arm.replace("_", " ") for summary in summaries]
    axes.set_yticks(range(len(names)), names)
    rounds = max(summary.time.n for summary in summaries if summary.time)
    axes.set(
        title=f"time of a step / TRL's (dashed: {LIMIT:g})",
        xlabel=f"median and quartiles of {rounds} rounds",
        ylim=(len(names) - 0.5, -0.5),
    )
