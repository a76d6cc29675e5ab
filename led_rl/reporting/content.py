"""What a report holds, how its figures are written as text, and the sentences that sum it up."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from led_rl.evaluation.estimates import Estimate
from led_rl.evaluation.layer_entropy import LayerEntropies, entropy_change
from led_rl.evaluation.summary import MINUS, SummaryRow
from led_rl.reporting.evaluation_figures import excludes_zero, pass_ks
from led_rl.reporting.style import Histories, series

SMALL_MODEL_CAVEAT = (
    "A model of this size is a check of the pipeline and of the entropy picture, not evidence for or against LED. An "
    "effect as large as the one reported for it (about one point of pass@16) takes thousands of problems and at least "
    "three training seeds per arm to see."
)


@dataclass(frozen=True)
class Report:
    """Everything that a report shows; whatever is left out is said to be missing.

    Attributes:
        rows: of `summarise`.
        histories: run -> `log_history` of its trainer_state.json.
        entropies: checkpoint -> layer entropies, the untrained one first; all read on the same sequences.
        settings: of the run, nested as they come.
        locations: what -> where it lies (checkpoints, the W&B run, records).
        rollouts_per_step: completions behind each training step's averages.
        caveat: said beside the summary; empty for a model of a size that can be evidence.
    """

    title: str
    rows: Sequence[SummaryRow] = ()
    histories: Histories = field(default_factory=dict)
    entropies: Mapping[str, LayerEntropies] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    locations: Mapping[str, str] = field(default_factory=dict)
    rollouts_per_step: int | None = None
    caveat: str = SMALL_MODEL_CAVEAT


class Metric(NamedTuple):
    """How one figure of a SummaryRow is written."""

    name: str
    label: str
    unit: str
    scale: float = 1.0


SHARE = Metric("", "", "%", 100)


def metrics_of(rows: Sequence[SummaryRow]) -> list[Metric]:
    """Columns of the results: pass@1 and the largest pass@k, the reward where it says more, lengths, time."""
    ks = pass_ks(rows)
    shown = [Metric(f"pass@{k}", f"pass@{k}", "%", 100) for k in sorted({*ks[:1], *ks[-1:]})]
    if any(_differ(row.metrics.get("reward"), row.metrics.get("pass@1")) for row in rows):
        shown.append(Metric("reward", "mean reward", ""))
    return [
        *shown,
        Metric("thinking_tokens", "thinking", "tokens"),
        Metric("answer_tokens", "answer", "tokens"),
        Metric("total_tokens", "total", "tokens"),
        Metric("truncated", "truncated", "%", 100),
        Metric("wall_s", "wall time", "s"),
        Metric("tokens_per_s", "speed", "tokens/s"),
    ]


def format_estimate(estimate: Estimate | None, metric: Metric, signed: bool = False) -> tuple[str, str]:
    """The value and its interval as text, equally rounded; a dash for what is not estimable."""
    if estimate is None or math.isnan(estimate.value):
        return "–", ""
    numbers = [metric.scale * number for number in (estimate.value, estimate.low, estimate.high)]
    largest = max(abs(number) for number in numbers if not math.isnan(number))
    decimals = {"%": 1, "tokens": 1, "s": 1, "tokens/s": 0}.get(metric.unit, 3)
    if metric.unit == "s" and largest < 10:
        decimals = 2
    value, low, high = (_number(number, decimals, signed) for number in numbers)
    return value, "" if math.isnan(estimate.low) else f"[{low}, {high}]"


def sample_sizes(row: SummaryRow) -> str:
    """ "200 problems × 16 samples; time over 7 chunks"."""
    sides = 2 if row.is_difference else 1
    each = row.samples / max(1, row.problems) / sides
    text = f"{row.problems} problems × {each:g} samples" + (" on each side" if row.is_difference else "")
    if chunks := row.metrics["tokens_per_s"].n:
        text += f"; time over {chunks} chunk{'s' * (chunks > 1)}"
    return text


class Finding(NamedTuple):
    """A plain sentence with its n, and what belongs under it."""

    text: str
    details: tuple[str, ...] = ()


def findings(report: Report) -> list[Finding]:
    """The results in short."""
    return [*_training(report), *_comparisons(report), *_entropies(report), *_unusable(report)]


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


def _comparisons(report: Report) -> Iterator[Finding]:
    """Each pair of arms over the checkpoints, each pair of checkpoints over the arms."""
    groups: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in report.rows:
        if row.compares == "arms":
            groups.setdefault((row.arm, "same weights"), []).append(row)
        elif row.compares == "checkpoints":
            groups.setdefault((row.checkpoint, "same decoding"), []).append(row)
    looked_at = 0
    for (pair, shared), rows in groups.items():
        n = " to ".join(map(str, sorted({min(row.problems for row in rows), max(row.problems for row in rows)})))
        metrics = [metric for metric in metrics_of(rows) if metric.name.startswith("pass@")]
        if rows[0].compares == "arms":
            metrics.append(Metric("tokens_per_s", "speed", "tokens/s"))
        details = tuple(f"{metric.label}: {_by_verdict(rows, metric)}." for metric in metrics)
        yield Finding(f"{pair.replace(MINUS, ' against ')}: {shared}, same n = {n} problems.", details)
        looked_at += len(metrics) * len(rows)
    if looked_at > 1:
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
        verdicts.setdefault(_verdict(estimate), []).append(f"{where} ({value} {unit} {interval})")
    preposition = "on" if rows[0].compares == "arms" else "with"
    return "; ".join(f"{verdict} {preposition} {', '.join(which)}" for verdict, which in verdicts.items())


def _verdict(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return "not estimable"
    if not excludes_zero(estimate):
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
    text = _number(change, 4, signed=True)
    return text if math.isnan(standard_error) else f"{text} ± {1.96 * standard_error:.4f}"


def _unusable(report: Report) -> Iterator[Finding]:
    unusable = sum(row.unusable for row in report.rows if not row.is_difference)
    if unusable:
        samples = sum(row.samples for row in report.rows if not row.is_difference)
        yield Finding(
            f"{unusable:,} of {samples:,} samples could not be judged; they are left out, not counted as wrong."
        )


def _differ(a: Estimate | None, b: Estimate | None) -> bool:
    return a is not None and b is not None and not math.isclose(a.value, b.value, abs_tol=1e-9)


def _number(number: float, decimals: int, signed: bool) -> str:
    text = f"{number:+,.{decimals}f}" if signed else f"{number:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")  # no -0.0
    return text.replace("-", "−")
