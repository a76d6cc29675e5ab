"""The figure of `led-rl benchmark`: throughput ratios with their quartiles, and time of a step where sizes vary."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from led_rl.benchmarks.engine_results import STANDARD, Summary
from led_rl.benchmarks.engine_settings import BASELINE_ARMS
from led_rl.reporting.style import (
    FAINT,
    INK,
    MARKERS,
    NAMED_COLOURS,
    OTHER_COLOURS,
    legend_on_top,
    new_figure,
    say,
    styled,
)

Measured = tuple[int, int, list[Summary]]  # batch, context, one summary an arm
COLOURS = {
    STANDARD: NAMED_COLOURS["standard"],
    "top_k_control": NAMED_COLOURS["control"],
    "led_coin": NAMED_COLOURS["led"],
    "led_marginal": OTHER_COLOURS[0],
    "led_reference": OTHER_COLOURS[1],
    "plain": NAMED_COLOURS["base"],
    **dict(zip(BASELINE_ARMS, OTHER_COLOURS[2:] + OTHER_COLOURS, strict=False)),
}
LINES, LINE_NAMES = ("-", "--", ":", "-."), ("solid", "dashed", "dotted", "dash-dotted")


@styled
def benchmark_figure(cells: Sequence[Measured]) -> Figure:
    """Left: ratio to standard of each arm and size. Right, if there are several sizes: milliseconds of a step."""
    if not cells:
        figure, (axes,) = new_figure(1, height=2.5)
        say(axes, "no round was complete")
        return figure
    rows = sum(len(summaries) + 1 for _, _, summaries in cells)
    figure, panels = new_figure(2 if len(cells) > 1 else 1, height=max(2.6 if len(cells) == 1 else 3.6, 0.27 * rows))
    _draw_ratios(panels[0], cells)
    if len(cells) > 1:
        _draw_steps(panels[1], cells)
        legend_on_top(figure, panels[1])
    return figure


def _draw_ratios(axes: Axes, cells: Sequence[Measured]) -> None:
    """Median and quartiles over rounds, one line an arm; standard's own ratio shows the machine's noise."""
    axes.axvline(1, color=FAINT, lw=1)
    names, place = [], 0
    for batch, context, summaries in cells:
        for summary in summaries:
            if summary.ratios is None:
                continue
            shade = COLOURS[summary.arm]
            axes.plot(summary.ratios.quartiles, [place, place], color=shade, lw=2.4, solid_capstyle="butt")
            axes.plot(summary.ratios.median, place, "o", color=shade, markersize=6)
            size = f"{batch} × {context}: " if len(cells) > 1 else ""
            names.append((place, f"{size}{summary.arm.replace('_', ' ')}"))
            place += 1
        place += 1
    rounds = sorted({summary.ratios.n for *_, summaries in cells for summary in summaries if summary.ratios})
    counts = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}" if rounds else "0"
    title = "throughput / standard"
    if len(cells) == 1:
        title += f": batch {cells[0][0]}, context {cells[0][1]}"
    axes.set(title=title, xlabel=f"median and quartiles of {counts} neighbouring blocks", ylim=(place - 1.4, -0.6))
    axes.set_yticks([at for at, _ in names], [name for _, name in names])
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    axes.grid(axis="y", visible=False)


def _draw_steps(axes: Axes, cells: Sequence[Measured]) -> None:
    """Milliseconds of a step by batch, or by context where there is but one batch; one line an arm and context."""
    by_batch = len({batch for batch, _, _ in cells}) > 1
    lines: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for batch, context, summaries in cells:
        for summary in summaries:
            key = summary.arm, context if by_batch else batch
            lines.setdefault(key, []).append((batch if by_batch else context, summary.ms_per_step))
    others = sorted({other for _, other in lines})
    for (arm, other), points in lines.items():
        number = others.index(other)
        xs, ys = zip(*sorted(points), strict=True)
        axes.plot(
            xs,
            ys,
            LINES[number % len(LINES)],
            color=COLOURS[arm],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4.5,
            label=None if number else arm.replace("_", " "),
        )
    axes.set_xscale("log", base=2)
    sizes = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    this, that = ("batch", "context") if by_batch else ("context", "batch")
    drawn = ", ".join(f"{LINE_NAMES[i % len(LINES)]} {other}" for i, other in enumerate(others))
    axes.set(title="milliseconds of a step", xlabel=f"{this} ({that}: {drawn})", ylim=(0, None))
