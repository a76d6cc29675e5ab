"""The results as one self-contained HTML page with its figures beside it."""

import io
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from led_rl.reporting.content import Report
from led_rl.reporting.evaluation_figures import difference_figure, entropy_figure, pass_figure
from led_rl.reporting.page import page
from led_rl.reporting.style import styled
from led_rl.reporting.training_figures import led_figure, length_figure, reward_figure, time_figure

FIGURES: dict[str, Callable[[Report], Figure]] = {
    "pass_at_k": lambda report: pass_figure(report.rows),
    "differences": lambda report: difference_figure(report.rows),
    "reward": lambda report: reward_figure(report.histories),
    "rollout_length": lambda report: length_figure(report.histories),
    "wall_time": lambda report: time_figure(report.histories),
    "layer_entropy": lambda report: entropy_figure(report.entropies),
    "led_in_training": lambda report: led_figure(report.histories),
}


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
