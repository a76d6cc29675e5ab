"""The table of an evaluation, for the console."""

from collections.abc import Sequence

from led_rl.evaluation.summary import SummaryRow
from led_rl.reporting.content import format_estimate, metrics_of, sample_sizes
from led_rl.terminal.tables import text_table


def console_table(rows: Sequence[SummaryRow]) -> str:
    """A block per checkpoint, a column per decoding or difference, a line per figure."""
    blocks = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        columns = [row for row in rows if row.checkpoint == checkpoint]
        lines = []
        for metric in metrics_of(columns):
            label = metric.label if metric.unit in ("", metric.label) else f"{metric.label} ({metric.unit})"
            cells = [format_estimate(row.metrics.get(metric.name), metric, row.is_difference) for row in columns]
            lines.append([label, *(" ".join(cell).strip() for cell in cells)])
        for label, counts in (
            ("n problems", [row.metrics["pass@1"].n if "pass@1" in row.metrics else row.problems for row in columns]),
            ("n samples", [row.samples - row.unusable for row in columns]),
            ("n chunks (time)", [row.metrics["tokens_per_s"].n for row in columns]),
        ):
            lines.append([label, *(f"{count:,}" for count in counts)])
        unusable = sum(row.unusable for row in columns if not row.is_difference)
        note = f"; {unusable:,} samples could not be judged and are left out" if unusable else ""
        table = text_table(["", *(row.arm for row in columns)], lines)
        blocks.append(f"{checkpoint}: {sample_sizes(columns[0])}{note}\n{table}")
    explanation = "[low, high]: 95 % bootstrap intervals over problems (time: over chunks); differences are paired."
    return "\n\n".join([*blocks, explanation])
