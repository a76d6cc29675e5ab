"""What a reader of an evaluation must know beside its figures, each as one plain sentence."""

from collections.abc import Sequence

from led_rl.evaluation.estimates import shows_difference
from led_rl.evaluation.slopes import Slope
from led_rl.evaluation.summary import SummaryRow, pass_ks

MANY_CUT_OFF = 0.2


def remarks(rows: Sequence[SummaryRow], slopes: Sequence[Slope] = (), max_tokens: int | None = None) -> list[str]:
    """Truncation, what the differences show and what they could have shown, and the slopes over temperature."""
    return [*_truncation(rows, max_tokens), *_differences(rows), *map(_slope, slopes)]


def _truncation(rows: Sequence[SummaryRow], max_tokens: int | None) -> list[str]:
    said = []
    at = f" at max_tokens {max_tokens}" if max_tokens else ""
    for row in rows:
        if row.is_difference or row.benchmark == "mean":
            continue
        cut, right = row.metrics["truncated"].value, row.metrics.get("pass@1")
        accuracy = "" if right is None else f"pass@1 of {100 * right.value:.1f} %"
        if cut == 1:
            said.append(
                f"{_place(row)}: every completion was cut off{at}: the {accuracy} says nothing about the model; raise "
                "max_tokens"
            )
        elif cut > MANY_CUT_OFF:
            said.append(
                f"{_place(row)}: {100 * cut:.0f} % of the completions were cut off{at} and count as wrong: the "
                f"{accuracy} is that of this length"
            )
    return said


def _differences(rows: Sequence[SummaryRow]) -> list[str]:
    said, tests = [], 0
    differences = [row for row in rows if row.is_difference]
    for row in differences:
        ks = pass_ks([row])
        for name in dict.fromkeys(f"pass@{k}" for k in (ks[:1] + ks[-1:])):
            estimate = row.metrics[name]
            if estimate.p_holm is None or estimate.detectable is None or estimate.n < 2:
                continue
            value, low, high, least = (
                100 * x for x in (estimate.value, estimate.low, estimate.high, estimate.detectable)
            )
            shown = shows_difference(estimate)
            verdict = ("higher" if value > 0 else "lower") if shown else "no difference shown"
            said.append(
                f"{_place(row)}, {name}: {verdict} ({value:+.1f} points [{low:+.1f}, {high:+.1f}], p = "
                f"{estimate.p_value:.2g}, corrected {estimate.p_holm:.2g}); {estimate.n} problems show a difference of "
                f"{least:.1f} points four times in five"
            )
        tests += sum(estimate.p_holm is not None for estimate in row.metrics.values())
    if tests:
        said.append(f"p-values are corrected (Holm) over the {tests} tests of the {len(differences)} differences")
    return said


def _slope(slope: Slope) -> str:
    alpha = slope.alpha
    place = " on ".join(part for part in (slope.checkpoint, slope.benchmark) if part)
    return (
        f"{place}, {slope.sweep}: pass@{slope.k} changes by {100 * alpha.value:+.1f} points [{100 * alpha.low:+.1f}, "
        f"{100 * alpha.high:+.1f}] per unit of temperature (T {', '.join(f'{t:g}' for t in slope.temperatures)}; "
        f"{alpha.n} problems)"
    )


def _place(row: SummaryRow) -> str:
    return f"{row.checkpoint}{f' on {row.benchmark}' if row.benchmark else ''}, {row.arm}"
