"""The figures of an evaluation as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Sequence

from led_rl.evaluation.summary import SummaryRow
from led_rl.reporting.content import Report, format_estimate, metrics_of, sample_sizes
from led_rl.reporting.evaluation.folder import EvaluationFolder
from led_rl.reporting.findings import findings

COLUMNS = ("benchmark", "checkpoint", "arm", "compares", "metric", "value", "low", "high", "n", "p_value", "p_holm")


def csv_table(folder: EvaluationFolder) -> str:
    """One line per figure; shares are of 1, not in percent; empty: not estimable, or not a difference."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for benchmark, rows in folder.rows.items():
        for row in rows:
            for name, estimate in row.metrics.items():
                numbers = (estimate.value, estimate.low, estimate.high, estimate.n, estimate.p_value, estimate.p_holm)
                place = [_plain(part) for part in (benchmark, row.checkpoint, row.arm)]
                writer.writerow([*place, row.compares or "", name, *map(_number, numbers)])
    return text.getvalue()


def _number(number: float | None) -> str:
    return "" if number is None or math.isnan(number) else f"{number:.10g}"


def _plain(text: str) -> str:
    """The text with a quote before it where a spreadsheet would take it for a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def markdown_report(report: Report) -> str:
    """Findings, then a table per benchmark and checkpoint: a line per arm or difference, a column per figure."""
    parts = [f"# {_cell(report.title)}"]
    listed = []
    for finding in findings(report):
        listed.append(f"* {_cell(finding.text)}")
        listed += [f"  * {_cell(detail)}" for detail in finding.details]
    parts.append("\n".join(listed))
    for benchmark, rows in report.results.items():
        for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
            group = [row for row in rows if row.checkpoint == checkpoint]
            place = ", ".join(_cell(part) for part in (benchmark, checkpoint) if part)
            parts += [f"## {place}", sample_sizes(group[0]), _table(group)]
    parts.append("[low, high]: 95 % bootstrap intervals over problems (time: over chunks); differences are paired.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Sequence[SummaryRow]) -> str:
    metrics = metrics_of(rows)
    units = [f" ({metric.unit})" if metric.unit not in ("", metric.label) else "" for metric in metrics]
    head = ["", *(metric.label + unit for metric, unit in zip(metrics, units, strict=True))]
    lines = [head, ["---", *("---:" for _ in metrics)]]
    for row in rows:
        cells = [format_estimate(row.metrics.get(metric.name), metric, row.is_difference) for metric in metrics]
        lines.append([_cell(row.arm), *(" ".join(cell).strip() for cell in cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that neither ends a cell of a table nor is taken for markup."""
    for letter in ("\\", "|", "<", ">", "*", "`", "[", "]"):
        text = text.replace(letter, "\\" + letter)
    return " ".join(text.split())
