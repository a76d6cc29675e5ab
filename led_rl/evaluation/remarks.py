"""What a reader of an evaluation must know beside its figures: sentences, and a table of what differences show."""

import math
from collections.abc import Sequence

from led_rl.evaluation.estimates import Estimate, shows_difference
from led_rl.evaluation.slopes import Slope
from led_rl.evaluation.summary import MEAN, SummaryRow, figures_tested
from led_rl.terminal.tables import text_table

MANY_CUT_OFF = 0.2
IN_POINTS = ("pass@", "majority@", "truncated")


def remarks(rows: Sequence[SummaryRow], slopes: Sequence[Slope] = (), max_tokens: int | None = None) -> list[str]:
    """Truncation, how many tests were corrected for, and the slopes over temperature, one sentence each."""
    said = _truncation(rows, max_tokens)
    tests = sum(estimate.p_holm is not None for row in rows for estimate in row.metrics.values())
    if tests:
        differences = sum(row.is_difference for row in rows)
        said.append(
            f"p-values are corrected (Holm) over the {tests} tests of {differences} differences; detectable: what so "
            "many problems show four times in five, before the correction"
        )
    return said + [_slope(slope) for slope in slopes]


def difference_table(rows: Sequence[SummaryRow]) -> str:
    """A line for each accuracy and for the length of each difference: verdict, p-values, smallest detectable effect."""
    lines = []
    for row in rows:
        for name in figures_tested(row) if row.is_difference else ():
            if name.startswith(("pass@", "majority@")) or name == "total_tokens":
                place = [row.checkpoint, *([row.benchmark] if row.benchmark else []), row.arm, name]
                lines.append([" ".join(place[:-2]), *place[-2:], *_verdict(name, row.metrics[name])])
    head = ["", "difference", "figure", "", "95 % interval", "p", "corrected", "detectable", "verdict"]
    return text_table(head, lines) if lines else ""


def _verdict(name: str, estimate: Estimate) -> list[str]:
    scale, unit = (100, " points") if name.startswith(IN_POINTS) else (1, " tokens")
    if math.isnan(estimate.low) or estimate.p_value is None or estimate.p_holm is None:
        return ["–", "", "", "", "", "not estimable"]
    value, low, high = (f"{scale * number:+.1f}" for number in (estimate.value, estimate.low, estimate.high))
    least = estimate.detectable
    detectable = "unknown" if least is None or math.isnan(least) else f"{scale * least:.1f}"
    verdict = ("higher" if estimate.value > 0 else "lower") if shows_difference(estimate) else "no difference shown"
    p_values = (f"{estimate.p_value:.2g}", f"{estimate.p_holm:.2g}")
    return [value + unit, f"[{low}, {high}]", *p_values, detectable, verdict]


def _truncation(rows: Sequence[SummaryRow], max_tokens: int | None) -> list[str]:
    """A sentence for each checkpoint and benchmark whose completions were often cut off."""
    at = f" at max_tokens {max_tokens}" if max_tokens else ""
    places: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in rows:
        if not row.is_difference and row.benchmark != MEAN and row.metrics["truncated"].value > MANY_CUT_OFF:
            places.setdefault((row.checkpoint, row.benchmark), []).append(row)
    said = []
    for (checkpoint, benchmark), cut in places.items():
        place = f"{checkpoint} on {benchmark}" if benchmark else checkpoint
        shares = [row.metrics["truncated"].value for row in cut]
        if min(shares) == 1:
            said.append(
                f"{place}: every completion was cut off{at} ({', '.join(row.arm for row in cut)}) and counts as wrong: "
                "the accuracy says nothing about the model; raise max_tokens"
            )
        else:
            listed = ", ".join(f"{row.arm} {100 * share:.0f} %" for row, share in zip(cut, shares, strict=True))
            said.append(f"{place}: completions were cut off{at} ({listed}) and count as wrong: raise max_tokens")
    return said


def _slope(slope: Slope) -> str:
    alpha = slope.alpha
    place = " on ".join(part for part in (slope.checkpoint, slope.benchmark) if part)
    return (
        f"{place}, {slope.sweep}: pass@{slope.k} changes by {100 * alpha.value:+.1f} points [{100 * alpha.low:+.1f}, "
        f"{100 * alpha.high:+.1f}] per unit of temperature (T {', '.join(f'{t:g}' for t in slope.temperatures)}; "
        f"{alpha.n} problems)"
    )
