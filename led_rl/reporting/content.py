"""What a report holds, and how its figures are written as text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from led_rl.evaluation.estimates import Estimate
from led_rl.evaluation.layers.entropy import LayerEntropies
from led_rl.evaluation.summary import SummaryRow, pass_ks
from led_rl.reporting.histories import Histories

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
        remarks: sentences beside the findings.
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
    remarks: Sequence[str] = ()

    @property
    def results(self) -> Mapping[str, Sequence[SummaryRow]]:
        """The rows by benchmark; under the empty name where there is but one."""
        found: dict[str, list[SummaryRow]] = {}
        for row in self.rows:
            found.setdefault(row.benchmark, []).append(row)
        return found if len(found) > 1 else {"": self.rows}


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
    value, low, high = (number_text(number, decimals, signed) for number in numbers)
    return value, "" if math.isnan(estimate.low) else f"[{low}, {high}]"


def sample_sizes(row: SummaryRow) -> str:
    """ "200 problems × 16 samples; time over 7 chunks"."""
    sides = 2 if row.is_difference else 1
    each = row.samples / max(1, row.problems) / sides
    text = f"{row.problems} problems × {each:g} samples" + (" on each side" if row.is_difference else "")
    if chunks := row.metrics["tokens_per_s"].n:
        text += f"; time over {chunks} chunk{'s' * (chunks > 1)}"
    return text


def _differ(a: Estimate | None, b: Estimate | None) -> bool:
    return a is not None and b is not None and not math.isclose(a.value, b.value, abs_tol=1e-9)


def number_text(number: float, decimals: int, signed: bool) -> str:
    """A number with thousands separators and a true minus sign."""
    text = f"{number:+,.{decimals}f}" if signed else f"{number:,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")  # no -0.0
    return text.replace("-", "−")
