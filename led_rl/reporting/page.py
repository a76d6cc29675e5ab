"""The report as one HTML page that loads nothing: figures are embedded, all text is escaped."""

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from led_rl import __version__
from led_rl.evaluation.summary import SummaryRow
from led_rl.reporting.content import SHARE, Metric, Report, findings, format_estimate, metrics_of, sample_sizes
from led_rl.reporting.evaluation_figures import excludes_zero
from led_rl.reporting.style import colour, smoothing_window

STYLE = """
:root { --ink: #1f2933; --soft: #52606d; --faint: #7b8794; --line: #e4e7eb; --accent: #0b8074; --paper: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 36px 28px 60px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 40px 0 12px; }
p { margin: 0 0 10px; }
code { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.meta, figcaption, .note { color: var(--soft); font-size: 13.5px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px 22px;
  margin: 0 0 16px; }
.summary { border-left: 4px solid var(--accent); margin-top: 22px; }
.summary ul { margin: 0; padding-left: 20px; }
.summary ul ul { color: var(--soft); font-size: 14px; }
.card > p:last-child { margin-bottom: 0; }
.summary li { margin: 3px 0; }
.caveat { background: #fff8e6; border-color: #f0d9a0; border-left: 4px solid #c47f17; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 14px; margin: 20px 0 0; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px;
  border-top: 3px solid var(--shade); }
.tile b { display: block; font-size: 26px; line-height: 1.25; font-weight: 650; }
.tile span { color: var(--soft); font-size: 13px; display: block; }
.scroll { overflow-x: auto; padding: 6px 10px 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 8px 10px; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { font-size: 13px; color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
thead small { display: block; font-weight: 400; color: var(--faint); }
tbody tr + tr td { border-top: 1px solid #f0f2f4; }
tr.group th { padding-top: 18px; text-align: left; font-size: 14.5px; }
tr.group small { font-weight: 400; color: var(--soft); font-size: 13px; margin-left: 8px; }
td small { display: block; color: var(--faint); font-size: 12px; }
td b { font-weight: 500; }
td.certain b { font-weight: 700; }
td i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px;
  background: var(--shade); }
tr.difference td { background: #fafbfc; }
tr.difference td:first-child { color: var(--soft); padding-left: 26px; }
td.certain b { background: #e3f1ef; border-radius: 4px; padding: 1px 5px; margin-right: -5px; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption { margin-top: 8px; }
h3 { font-size: 15px; margin: 0 0 8px; }
.pairs td { white-space: normal; overflow-wrap: anywhere; text-align: left; padding: 5px 10px; }
.pairs td:first-child { color: var(--soft); width: 34%; padding-left: 0; }
@media print { body { background: white; } .card { break-inside: avoid; } }
"""

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
    body = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="meta">led-rl {escape(__version__)} · written {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}</p>',
        _tiles(report.rows),
        _summary(report),
        "<h2>Results</h2>",
        _results(report.rows),
    ]
    for section, names in SECTIONS.items():
        body.append(f"<h2>{section}</h2>")
        body += [_figure(name, figures[name], report) for name in names]
    body += [_pairs("Where everything lies", report.locations), _pairs("Settings", _flat(report.settings))]
    body += ["<h2>How to read this page</h2>", f'<div class="card"><p class="note">{escape(HOW_TO_READ)}</p></div>']
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _tiles(rows: Sequence[SummaryRow]) -> str:
    """pass@1 of each checkpoint under its first decoding, at a glance."""
    first: dict[str, SummaryRow] = {}
    for row in rows:
        if not row.is_difference and "pass@1" in row.metrics:
            first.setdefault(row.checkpoint, row)
    tiles = []
    for index, (checkpoint, row) in enumerate(first.items()):
        value, interval = format_estimate(row.metrics["pass@1"], SHARE)
        tiles.append(
            f'<div class="tile" style="--shade: {colour(checkpoint, index)}"><span>{escape(checkpoint)}</span>'
            f"<b>{value} %</b><span>pass@1, {escape(row.arm)} decoding</span>"
            f"<span>{interval}, n = {row.metrics['pass@1'].n}</span></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _summary(report: Report) -> str:
    points = "".join(f"<li>{escape(text)}{_list(details)}</li>" for text, details in findings(report))
    text = f"<ul>{points}</ul>" if points else "<p>Nothing was trained or evaluated.</p>"
    caveat = f'<div class="card caveat"><p>{escape(report.caveat)}</p></div>' if report.caveat else ""
    return f'<div class="card summary"><h3>In short</h3>{text}</div>{caveat}'


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def _results(rows: Sequence[SummaryRow]) -> str:
    if not rows:
        return '<div class="card"><p class="note">No evaluation was given.</p></div>'
    metrics = metrics_of(rows)
    head = "".join(f"<th>{escape(m.label)}<small>{escape(m.unit)}</small></th>" for m in metrics)
    body = []
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        group = [row for row in rows if row.checkpoint == checkpoint]
        sizes = f"<small>{escape(sample_sizes(group[0]))}</small>"
        body.append(f'<tr class="group"><th colspan="{len(metrics) + 1}">{escape(checkpoint)}{sizes}</th></tr>')
        for index, row in enumerate(group):
            cells = "".join(_cell(row, metric) for metric in metrics)
            kind = ' class="difference"' if row.is_difference else ""
            dot = "" if row.is_difference else f'<i style="--shade: {colour(row.arm, index)}"></i>'
            plural = "" if row.unusable == 1 else "s"
            left_out = f"<small>{row.unusable:,} sample{plural} not judged</small>" if row.unusable else ""
            body.append(f"<tr{kind}><td>{dot}{escape(row.arm)}{left_out}</td>{cells}</tr>")
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    legend = (
        "Below each figure: its 95 % interval, and n where it is not the group's. Differences in % are percentage "
        "points; marked where the interval excludes 0."
    )
    return f'<div class="card scroll">{table}<p class="note">{legend}</p></div>'


def _cell(row: SummaryRow, metric: Metric) -> str:
    estimate = row.metrics.get(metric.name)
    value, interval = format_estimate(estimate, metric, signed=row.is_difference)
    if estimate is None:
        return "<td>–</td>"
    notes = []
    if estimate.p_value is not None and not math.isnan(estimate.p_value) and metric.name.startswith("pass@"):
        notes.append("p < 0.001" if estimate.p_value < 0.001 else f"p = {estimate.p_value:.3f}")
    usual = row.metrics["tokens_per_s"].n if metric.name in ("wall_s", "tokens_per_s") else row.problems
    if estimate.n != usual:
        notes.append(f"n = {estimate.n}")
    lines = [line for line in (interval, ", ".join(notes)) if line]
    certain = ' class="certain"' if row.is_difference and excludes_zero(estimate) else ""
    return f"<td{certain}><b>{value}</b>{''.join(f'<small>{escape(line)}</small>' for line in lines)}</td>"


def _figure(name: str, svg: bytes, report: Report) -> str:
    title, caption = FIGURE_TEXTS[name]
    if name in SECTIONS["Training"]:
        caption = " ".join(part for part in (caption, _training_caption(name, report)) if part)
    if name == "layer_entropy" and report.entropies:
        counts = {(e.tokens, e.sequences) for e in report.entropies.values()}
        caption += (
            " n = " + ", ".join(f"{tokens:,} tokens of {sequences} sequences" for tokens, sequences in counts) + "."
        )
    encoded = base64.b64encode(svg).decode("ascii")
    return (
        f'<div class="card"><figure id="{name}"><h3>{escape(title)}</h3>'
        f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{encoded}">'
        f"<figcaption>{escape(caption)}</figcaption></figure></div>"
    )


def _training_caption(name: str, report: Report) -> str:
    steps = max((len(history) for history in report.histories.values()), default=0)
    window = smoothing_window(steps)
    text = f"n = {report.rollouts_per_step} rollouts a step." if report.rollouts_per_step else ""
    if name != "wall_time" and window > 1:
        text += f" Thin: each step; thick: centred mean over {window} steps."
    return text.strip()


def _pairs(title: str, pairs: Mapping[str, Any]) -> str:
    if not pairs:
        return ""
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td><code>{escape(str(value))}</code></td></tr>"
        for key, value in pairs.items()
    )
    return f'<h2>{escape(title)}</h2><div class="card"><table class="pairs">{rows}</table></div>'


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
