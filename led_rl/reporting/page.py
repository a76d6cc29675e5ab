"""The report as one HTML page that loads nothing: what page.html.j2 is filled with."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from led_rl import __version__
from led_rl.evaluation.estimates import shows_difference
from led_rl.evaluation.records import flattened
from led_rl.evaluation.summary import SummaryRow
from led_rl.reporting.content import SHARE, Metric, Report, format_estimate, metrics_of, sample_sizes
from led_rl.reporting.evaluation.sample_browser import SampleBrowser
from led_rl.reporting.findings import findings
from led_rl.reporting.style import colour

HERE = Path(__file__).parent
MOST_TILES = 8
HOW_TO_READ = (
    "Intervals are 95 % bootstrap intervals that resample problems (for time: chunks of problems, in which the "
    "decodings take turns); Wilson's where every problem is all right or all wrong. Differences are paired by problem, "
    "with the p-value of a sign-flip test; where it says Holm, corrected over every test that was made. Intervals "
    "tell how far another draw of problems would move a figure. They do not tell how far another training seed would: "
    "a comparison of two trained checkpoints is a comparison of these two runs."
)


@dataclass(frozen=True)
class PageFigure:
    """A card of figures under one caption. `panels`: text for those who cannot see it, SVG file."""

    name: str
    title: str
    caption: str
    panels: Sequence[tuple[str, bytes]]
    wide: bool = False  # one figure as wide as the page

    @property
    def pictures(self) -> list[tuple[str, str]]:
        return [(text, base64.b64encode(svg).decode("ascii")) for text, svg in self.panels]


def page(report: Report, sections: Mapping[str, Sequence[PageFigure]], samples: SampleBrowser | None = None) -> str:
    """The whole document: what was found, the results, the figures by section, and the samples where there are any."""
    every = [row for rows in report.results.values() for row in rows]
    metrics = metrics_of(every) if every else []
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
        tiles=[tile for name, rows in report.results.items() for tile in _tiles(name, rows)][:MOST_TILES],
        findings=findings(report),
        metrics=metrics,
        groups=[group for name, rows in report.results.items() for group in _groups(name, rows, metrics)],
        sections=sections,
        samples=samples,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "samples.js").read_text(encoding="utf-8")),
        settings=flattened(report.settings),
        how_to_read=HOW_TO_READ,
    )


def _tiles(benchmark: str, rows: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    """pass@1 of each checkpoint under its first decoding, at a glance."""
    first: dict[str, SummaryRow] = {}
    for row in rows:
        if not row.is_difference and "pass@1" in row.metrics:
            first.setdefault(row.checkpoint, row)
    tiles = []
    for index, (checkpoint, row) in enumerate(first.items()):
        value, interval = format_estimate(row.metrics["pass@1"], SHARE)
        place = ", ".join(part for part in (benchmark, checkpoint) if part)
        tile = {"checkpoint": place, "shade": colour(checkpoint, index), "arm": row.arm, "value": value}
        tiles.append(tile | {"interval": interval, "n": row.metrics["pass@1"].n})
    return tiles


def _groups(benchmark: str, rows: Sequence[SummaryRow], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """The rows of the results table, by checkpoint."""
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
        place = ", ".join(part for part in (benchmark, checkpoint) if part)
        groups.append({"checkpoint": place, "sizes": sample_sizes(group[0]), "rows": filled})
    return groups


def _cell(row: SummaryRow, metric: Metric) -> dict[str, Any]:
    estimate = row.metrics.get(metric.name)
    value, interval = format_estimate(estimate, metric, signed=row.is_difference)
    if estimate is None:
        return {"value": value, "lines": None, "certain": False}
    notes = []
    corrected = estimate.p_holm is not None
    p_value = estimate.p_holm if corrected else estimate.p_value
    if p_value is not None and not math.isnan(p_value) and metric.name.startswith("pass@"):
        written = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
        notes.append(f"Holm {written}" if corrected else written)
    usual = row.metrics["tokens_per_s"].n if metric.name in ("wall_s", "tokens_per_s") else row.problems
    if estimate.n != usual:
        notes.append(f"n = {estimate.n}")
    lines = [line for line in (interval, ", ".join(notes)) if line]
    return {"value": value, "lines": lines, "certain": row.is_difference and shows_difference(estimate)}
