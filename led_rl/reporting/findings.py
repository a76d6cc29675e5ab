"""The sentences that sum a report up."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from led_rl.evaluation.estimates import Z95, Estimate, shows_difference
from led_rl.evaluation.layers.entropy import entropy_change
from led_rl.evaluation.summary import MINUS, SummaryRow
from led_rl.reporting.content import Metric, Report, format_estimate, metrics_of, number_text
from led_rl.reporting.histories import series


class Finding(NamedTuple):
    """A plain sentence with its n, and what belongs under it."""

    text: str
    details: tuple[str, ...] = ()


def findings(report: Report) -> list[Finding]:
    """The results in short."""
    comparisons = [finding for name, rows in report.results.items() for finding in _comparisons(name, rows)]
    remarks = [Finding(f"{remark}.") for remark in report.remarks]
    return [*_training(report), *comparisons, *_chance(report), *remarks, *_entropies(report), *_unusable(report)]


def _training(report: Report) -> Iterator[Finding]:
    for run, history in report.histories.items():
        steps, rewards = series(history, "reward")
        if not len(steps):
            continue
        each = f" of {report.rollouts_per_step} rollouts" if report.rollouts_per_step else ""
        part = max(1, len(steps) // 5)
        text = (
            f"Training with {run}: {len(steps)} steps{each}; mean reward {rewards[:part].mean():.3f} over the first "
            f"{part}, {rewards[-part:].mean():.3f} over the last {part}"
        )
        _, lengths = series(history, "rollout/total_length")
        if len(lengths):
            text += f"; rollouts went from {lengths[:part].mean():.1f} to {lengths[-part:].mean():.1f} tokens"
        yield Finding(text + ".")


def _comparisons(benchmark: str, all_rows: Sequence[SummaryRow]) -> Iterator[Finding]:
    """Each pair of arms over the checkpoints, each pair of checkpoints over the arms."""
    for (pair, shared), rows in _pairs(all_rows).items():
        n = " to ".join(map(str, sorted({min(row.problems for row in rows), max(row.problems for row in rows)})))
        details = tuple(f"{metric.label}: {_by_verdict(rows, metric)}." for metric in _compared(rows))
        place = f"{benchmark}, " if benchmark else ""
        yield Finding(f"{place}{pair.replace(MINUS, ' against ')}: {shared}, same n = {n} problems.", details)


def _pairs(rows: Sequence[SummaryRow]) -> dict[tuple[str, str], list[SummaryRow]]:
    groups: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in rows:
        if row.compares == "arms":
            groups.setdefault((row.arm, "same weights"), []).append(row)
        elif row.compares == "checkpoints":
            groups.setdefault((row.checkpoint, "same decoding"), []).append(row)
    return groups


def _compared(rows: Sequence[SummaryRow]) -> list[Metric]:
    metrics = [metric for metric in metrics_of(rows) if metric.name.startswith("pass@")]
    if rows[0].compares == "arms" and any(row.metrics["tokens_per_s"].n for row in rows):
        metrics.append(Metric("tokens_per_s", "speed", "tokens/s"))
    return metrics


def _chance(report: Report) -> Iterator[Finding]:
    groups = [rows for all_rows in report.results.values() for rows in _pairs(all_rows).values()]
    looked_at = sum(len(_compared(rows)) * len(rows) for rows in groups)
    tests = sum(e.p_holm is not None for row in report.rows for e in row.metrics.values())
    if tests:
        yield Finding(
            f"The p-values of these differences are corrected (Holm) over the {tests} tests that were made; a "
            "difference is called higher or lower only if its interval and its corrected p-value agree. Detectable: "
            "the difference that this many problems show four times in five."
        )
    elif looked_at > 1:
        yield Finding(
            f"These are {looked_at} differences: by chance alone, about one 95 % interval in twenty excludes 0 where "
            "nothing differs."
        )


def _by_verdict(rows: Sequence[SummaryRow], metric: Metric) -> str:
    """ "higher on a (+1.0 points [...]); no difference shown on b (...)"."""
    unit = "points" if metric.unit == "%" else metric.unit
    verdicts: dict[str, list[str]] = {}
    for row in rows:
        estimate = row.metrics[metric.name]
        value, interval = format_estimate(estimate, metric, signed=True)
        where = row.checkpoint if row.compares == "arms" else row.arm
        least = ""
        detectable = estimate.detectable or math.nan
        if metric.unit == "%" and math.isfinite(detectable) and not shows_difference(estimate):
            least = f", detectable: {100 * detectable:.1f}"
        verdicts.setdefault(_verdict(estimate), []).append(f"{where} ({value} {unit} {interval}{least})")
    preposition = "on" if rows[0].compares == "arms" else "with"
    return "; ".join(f"{verdict} {preposition} {', '.join(which)}" for verdict, which in verdicts.items())


def _verdict(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return "not estimable"
    if not shows_difference(estimate):
        return "no difference shown"
    return "higher" if estimate.low > 0 else "lower"


def _entropies(report: Report) -> Iterator[Finding]:
    labels = list(report.entropies)
    for label in labels[1:]:
        before, after = report.entropies[labels[0]], report.entropies[label]
        if len(before.mean) != len(after.mean) or before.counts != after.counts:
            yield Finding(
                f"The entropies of {label} and {labels[0]} were not read on the same sequences: not compared."
            )
            continue
        change, error = entropy_change(before, after)
        yield Finding(
            f"Entropy of {label} against {labels[0]}, as a share of log V: final layer {before.mean[-1]:.3f} → "
            f"{after.mean[-1]:.3f} ({_plus_minus(change[-2], error[-2])}), layers between embeddings and final layer "
            f"{_plus_minus(change[-1], error[-1])} on average; n = {after.tokens:,} thinking tokens of "
            f"{after.sequences} sequences."
        )


def _plus_minus(change: float, standard_error: float) -> str:
    """A change with its 95 % margin."""
    text = number_text(change, 4, signed=True)
    return text if math.isnan(standard_error) else f"{text} ± {Z95 * standard_error:.4f}"


def _unusable(report: Report) -> Iterator[Finding]:
    rows = [row for rows in report.results.values() for row in rows if not row.is_difference]
    unusable = sum(row.unusable for row in rows)
    if unusable:
        samples = sum(row.samples for row in rows)
        yield Finding(
            f"{unusable:,} of {samples:,} samples could not be judged; they are left out, not counted as wrong."
        )
