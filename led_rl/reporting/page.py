"""The report as one HTML page that loads nothing: what page.html.j2 is filled with."""

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from led_rl import __version__
from led_rl.evaluation.estimates import shows_difference
from led_rl.evaluation.records import flattened
from led_rl.evaluation.summary import SummaryRow
from led_rl.reporting.content import SHARE, Metric, Report, format_estimate, metrics_of, sample_sizes
from led_rl.reporting.findings import findings
from led_rl.reporting.histories import smoothing_window
from led_rl.reporting.style import colour

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
HOW_TO_READ = (
    "Intervals are 95 % bootstrap intervals that resample problems (for time: chunks of problems, in which the "
    "decodings take turns); Wilson's where every problem is all right or all wrong. Differences are paired by problem, "
    "with the p-value of a sign-flip test; nothing is corrected for the number of comparisons. Intervals tell how far "
    "another draw of problems would move a figure. They do not tell how far another training seed would: a comparison "
    "of two trained checkpoints is a comparison of these two runs."
)


def page(report: Report, figures: Mapping[str, bytes]) -> str:
    """The whole document; `figures` are SVG files by name."""
    templates = Environment(
        loader=PackageLoader("led_rl.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("page.html.j2").render(
        report=report,
        version=__version__,
        written=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        tiles=_tiles(report.rows),
        findings=findings(report),
        metrics=metrics_of(report.rows) if report.rows else [],
        groups=_groups(report.rows),
        sections={
            section: [_figure(name, figures[name], report) for name in names] for section, names in SECTIONS.items()
        },
        settings=flattened(report.settings),
        how_to_read=HOW_TO_READ,
    )


def _tiles(rows: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    """pass@1 of each checkpoint under its first decoding, at a glance."""
    first: dict[str, SummaryRow] = {}
    for row in rows:
        if not row.is_difference and "pass@1" in row.metrics:
            first.setdefault(row.checkpoint, row)
    tiles = []
    for index, (checkpoint, row) in enumerate(first.items()):
        value, interval = format_estimate(row.metrics["pass@1"], SHARE)
        tile = {"checkpoint": checkpoint, "shade": colour(checkpoint, index), "arm": row.arm, "value": value}
        tiles.append(tile | {"interval": interval, "n": row.metrics["pass@1"].n})
    return tiles


def _groups(rows: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    """The rows of the results table, by checkpoint."""
    metrics = metrics_of(rows) if rows else []
    groups = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        group = [row for row in rows if row.checkpoint == checkpoint]
        filled = [
            {
                "arm": row.arm,
                "is_difference": row.is_difference,
                "shade": "" if row.is_difference else colour(row.arm, index),
                "left_out": f"{row.unusable:,} sample{'s' * (row.unusable != 1)} not judged" if row.unusable else "",
                "cells": [_cell(row, metric) for metric in metrics],
            }
            for index, row in enumerate(group)
        ]
        groups.append({"checkpoint": checkpoint, "sizes": sample_sizes(group[0]), "rows": filled})
    return groups


def _cell(row: SummaryRow, metric: Metric) -> dict[str, Any]:
    estimate = row.metrics.get(metric.name)
    value, interval = format_estimate(estimate, metric, signed=row.is_difference)
    if estimate is None:
        return {"value": value, "lines": None, "certain": False}
    notes = []
    if estimate.p_value is not None and not math.isnan(estimate.p_value) and metric.name.startswith("pass@"):
        notes.append("p < 0.001" if estimate.p_value < 0.001 else f"p = {estimate.p_value:.3f}")
    usual = row.metrics["tokens_per_s"].n if metric.name in ("wall_s", "tokens_per_s") else row.problems
    if estimate.n != usual:
        notes.append(f"n = {estimate.n}")
    lines = [line for line in (interval, ", ".join(notes)) if line]
    return {"value": value, "lines": lines, "certain": row.is_difference and shows_difference(estimate)}


def _figure(name: str, svg: bytes, report: Report) -> dict[str, str]:
    title, caption = FIGURE_TEXTS[name]
    if name in SECTIONS["Training"]:
        caption = " ".join(part for part in (caption, _training_caption(name, report)) if part)
    if name == "layer_entropy" and report.entropies:
        counts = {(e.tokens, e.sequences) for e in report.entropies.values()}
        caption += (
            " n = " + ", ".join(f"{tokens:,} tokens of {sequences} sequences" for tokens, sequences in counts) + "."
        )
    return {"name": name, "title": title, "caption": caption, "svg": base64.b64encode(svg).decode("ascii")}


def _training_caption(name: str, report: Report) -> str:
    steps = max((len(history) for history in report.histories.values()), default=0)
    window = smoothing_window(steps)
    text = f"n = {report.rollouts_per_step} rollouts a step." if report.rollouts_per_step else ""
    if name != "wall_time" and window > 1:
        text += f" Thin: each step; thick: centred mean over {window} steps."
    return text.strip()
