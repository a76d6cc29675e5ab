"""The results as a table for the console, and as one self-contained HTML page with its figures beside it."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from led_rl.evaluation.summary import SummaryRow
from led_rl.reporting.content import SMALL_MODEL_CAVEAT, Report, findings, format_estimate, metrics_of, sample_sizes
from led_rl.reporting.evaluation_figures import difference_figure, entropy_figure, pass_figure
from led_rl.reporting.page import page
from led_rl.reporting.style import styled
from led_rl.reporting.training_figures import led_figure, length_figure, reward_figure, time_figure

__all__ = ["FIGURES", "SMALL_MODEL_CAVEAT", "Report", "console_table", "findings", "write_report"]
FIGURES: dict[str, Callable[[Report], Figure]] = {
    "pass_at_k": lambda report: pass_figure(report.rows),
    "differences": lambda report: difference_figure(report.rows),
    "reward": lambda report: reward_figure(report.histories),
    "rollout_length": lambda report: length_figure(report.histories),
    "wall_time": lambda report: time_figure(report.histories),
    "layer_entropy": lambda report: entropy_figure(report.entropies),
    "led_in_training": lambda report: led_figure(report.histories),
}


def console_table(rows: Sequence[SummaryRow]) -> str:
    """Plain text: a block per checkpoint, a column per decoding or difference, a line per figure."""
    blocks = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        columns = [row for row in rows if row.checkpoint == checkpoint]
        lines = [["", *(row.arm for row in columns)]]
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
        blocks.append(f"{checkpoint}: {sample_sizes(columns[0])}{note}\n{_aligned(lines)}")
    explanation = "[low, high]: 95 % bootstrap intervals over problems (time: over chunks); differences are paired."
    return "\n\n".join([*blocks, explanation])


def write_report(path: str | Path, report: Report) -> dict[str, Path]:
    """Writes the page to `path`, and each figure as a PNG into the same folder; returns the PNGs by name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = {name: draw(report) for name, draw in FIGURES.items()}
    path.write_text(page(report, {name: _svg(figure) for name, figure in drawn.items()}), encoding="utf-8")
    pictures = {name: path.with_name(f"{name}.png") for name in drawn}
    for name, figure in drawn.items():
        _save(figure, pictures[name])
    return pictures


@styled
def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=160, metadata={"Software": None})


@styled
def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns padded to equal width: the first to the left, figures to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
