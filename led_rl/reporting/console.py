"""Tables for the console, by rich."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from led_rl.evaluation.summary import SummaryRow
from led_rl.reporting.content import format_estimate, metrics_of, sample_sizes

WIDEST = 400  # columns of a table that is not wrapped


def text_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width under a head: the first to the left, figures to the right. Nothing is cut or wrapped."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, title in enumerate(head):
        table.add_column(title, justify="right" if place else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console = Console(width=WIDEST, no_color=True, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines() if line.strip())


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
