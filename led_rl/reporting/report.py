"""The results as one self-contained HTML page with its figures beside it."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from led_rl.reporting.content import Report
from led_rl.reporting.evaluation_figures import difference_figure, entropy_figure, pass_figure
from led_rl.reporting.histories import smoothing_window
from led_rl.reporting.page import PageFigure, page
from led_rl.reporting.style import styled
from led_rl.reporting.training_figures import led_figure, length_figure, reward_figure, time_figure

FIGURE_TEXTS = {
    "pass_at_k": (
        "pass@k per checkpoint and decoding",
        "Unbiased pass@k (Chen et al., 2021). Bands: 95 % intervals over problems.",
    ),
    "differences": (
        "Paired differences on the same problems",
        "Bars: 95 % intervals. Teal: the interval lies above 0; red: below; grey and open: no difference shown.",
    ),
    "reward": ("Reward per training step", ""),
    "rollout_length": ("Rollout length per training step", ""),
    "wall_time": ("Wall time per training step", "Each bar is one logged step."),
    "layer_entropy": (
        "Entropy per layer, before and after training",
        "Entropy of each layer's next-token posterior over thinking tokens, divided by log V (1 is uniform); all "
        "checkpoints read on the same sequences. Bands: 1.96 standard errors over sequences.",
    ),
    "led_in_training": (
        "What LED did during training",
        "Of the thinking tokens of LED rollouts. Depths: mean share over all steps; 0 is the final layer alone.",
    ),
}
SECTIONS = {
    "Accuracy": ("pass_at_k", "differences"),
    "Training": ("reward", "rollout_length", "wall_time"),
    "Inside the model": ("layer_entropy", "led_in_training"),
}
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
    write_page(path, page(report, sections_of(report, {name: svg(figure) for name, figure in drawn.items()})))
    pictures = {name: path.with_name(f"{name}.png") for name in drawn}
    for name, figure in drawn.items():
        _save(figure, pictures[name])
    return pictures


@styled
def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=160, metadata={"Software": None})


@styled
def svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def write_page(path: Path, html: str) -> None:
    """A lone surrogate, which UTF-8 cannot hold, becomes a character reference."""
    path.write_text(html, encoding="utf-8", errors="xmlcharrefreplace")


def sections_of(report: Report, figures: Mapping[str, bytes]) -> dict[str, list[PageFigure]]:
    """The page's sections; `figures` are SVG files by name."""
    return {
        section: [_page_figure(name, figures[name], report) for name in names] for section, names in SECTIONS.items()
    }


def _page_figure(name: str, picture: bytes, report: Report) -> PageFigure:
    title, caption = FIGURE_TEXTS[name]
    if name in SECTIONS["Training"]:
        caption = " ".join(part for part in (caption, _training_caption(name, report)) if part)
    if name == "layer_entropy" and report.entropies:
        counts = {(e.tokens, e.sequences) for e in report.entropies.values()}
        caption += (
            " n = " + ", ".join(f"{tokens:,} tokens of {sequences} sequences" for tokens, sequences in counts) + "."
        )
    return PageFigure(name, title, caption, [(title, picture)], wide=True)


def _training_caption(name: str, report: Report) -> str:
    steps = max((len(history) for history in report.histories.values()), default=0)
    window = smoothing_window(steps)
    text = f"n = {report.rollouts_per_step} rollouts a step." if report.rollouts_per_step else ""
    if name != "wall_time" and window > 1:
        text += f" Thin: each step; thick: centred mean over {window} steps."
    return text.strip()
