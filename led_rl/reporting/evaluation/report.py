"""An evaluation's report: one HTML page with its figures and samples, Markdown, and CSV."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from led_rl.evaluation.arms import sweeps
from led_rl.evaluation.remarks import remarks
from led_rl.evaluation.slopes import slopes
from led_rl.reporting.content import Report
from led_rl.reporting.evaluation.folder import EvaluationFolder
from led_rl.reporting.evaluation.panels import (
    Panel,
    checkpoint_panels,
    difference_panels,
    length_panels,
    pass_panels,
    temperature_panels,
    truncation_panels,
)
from led_rl.reporting.evaluation.sample_browser import PAGE_MEGABYTES, sample_browser
from led_rl.reporting.page import PageFigure, page
from led_rl.reporting.report import svg, write_page
from led_rl.reporting.result_tables import csv_table, markdown_report

PAGE, MARKDOWN, CSV = "report.html", "report.md", "report.csv"
# section -> name, title, caption, what draws it. A figure that the folder has nothing for is left out.
Drawn = tuple[str, str, str, Callable[[EvaluationFolder], Sequence[Panel]]]
SECTIONS: Mapping[str, Sequence[Drawn]] = {
    "Accuracy": (
        (
            "pass_at_k",
            "pass@k per benchmark and checkpoint",
            "Unbiased pass@k (Chen et al., 2021). Bands: 95 % intervals over problems.",
            pass_panels,
        ),
        (
            "differences",
            "Paired differences on the same problems",
            "Bars: 95 % intervals. Teal: the interval lies above 0; red: below; grey and open: no difference shown.",
            difference_panels,
        ),
        (
            "checkpoints",
            "Accuracy over checkpoints",
            "Bands: 95 % intervals over problems; they do not hold the spread of other training seeds.",
            checkpoint_panels,
        ),
        (
            "temperatures",
            "Accuracy against temperature",
            "Arms that differ in nothing but their temperature. Bands: 95 % intervals over problems.",
            temperature_panels,
        ),
    ),
    "Lengths": (
        (
            "lengths",
            "Length of completions",
            "All completions, those that were cut off included, at the length at which they were cut.",
            length_panels,
        ),
        ("truncation", "Completions cut off at the limit", "Bars: 95 % intervals over problems.", truncation_panels),
    ),
}


def evaluation_report(folder: EvaluationFolder, title: str | None = None) -> Report:
    """What the page, the Markdown file and the findings are made from."""
    rows = [row for group in folder.rows.values() for row in group]
    found = slopes(folder.records, sweeps(folder.arms))
    named = [name for name in folder.rows if name]
    return Report(
        title=title or f"Evaluation {folder.path.resolve().name}{f': {named[0]}' if len(named) == 1 else ''}",
        rows=rows,
        remarks=remarks([row for row in rows if not row.is_difference], found, folder.max_tokens),
        settings={key: value for key, value in folder.manifest.items() if key != "format"},
        locations={"records": str(folder.path)},
        caveat="",
    )


def write_evaluation_report(
    folder: EvaluationFolder, output: Path, title: str | None = None, megabytes: float = PAGE_MEGABYTES
) -> dict[str, Path]:
    """Writes report.html, report.md and report.csv into `output`; returns their paths by kind."""
    output.mkdir(parents=True, exist_ok=True)
    report = evaluation_report(folder, title)
    sections = {
        section: [
            PageFigure(name, text, caption, [(panel.title, svg(panel.figure)) for panel in panels])
            for name, text, caption, draw in figures
            if (panels := draw(folder))
        ]
        for section, figures in SECTIONS.items()
    }
    write_page(output / PAGE, page(report, sections, sample_browser(folder, megabytes)))
    for name, text in ((MARKDOWN, markdown_report(report)), (CSV, csv_table(folder))):
        (output / name).write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return {"page": output / PAGE, "Markdown": output / MARKDOWN, "CSV": output / CSV}
