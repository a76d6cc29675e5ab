"""Small figures of an evaluation, one per benchmark and checkpoint: a page sets them side by side as it is wide."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from led_rl.evaluation.arms import sweeps
from led_rl.evaluation.estimates import Estimate, Floats, shows_difference
from led_rl.evaluation.rows import Record
from led_rl.evaluation.summary import SummaryRow, pass_ks
from led_rl.reporting.evaluation.folder import EvaluationFolder, group_of
from led_rl.reporting.style import FAINT, HIGHER, INK, LOWER, MARKERS, colour, percent_axis, styled

SIZE = (5.0, 3.3)  # inches
BINS = 24
FEW_LINES = 4  # whose bands can be told apart
LOG_RANGE = 50  # lengths that differ by more than this are drawn on a logarithmic axis
LINES = ("-", "--", ":", "-.")


class Panel(NamedTuple):
    """One small figure; the title is its text for those who cannot see it."""

    title: str
    figure: Figure


@styled
def pass_panels(folder: EvaluationFolder) -> list[Panel]:
    """pass@k against k with 95 % bands, a line per arm."""
    panels = []
    for benchmark, checkpoint, rows in _plain(folder):
        ks = pass_ks(rows)
        if len(ks) < 2 or all(math.isnan(row.metrics[f"pass@{k}"].value) for row in rows for k in ks):
            continue  # one sample each, or none that could be judged
        axes = _axes(_title(benchmark, checkpoint), "samples, k", f"pass@k, {rows[0].problems} problems")
        for index, row in enumerate(rows):
            _curve(axes, ks, [row.metrics[f"pass@{k}"] for k in ks], row.arm, index)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        percent_axis(axes)
        panels.append(_panel(axes))
    return panels


@styled
def difference_panels(folder: EvaluationFolder) -> list[Panel]:
    """Paired differences of pass@1 and of pass@(largest k): filled and coloured where one is shown."""
    panels = []
    for benchmark, rows in folder.rows.items():
        differences = [row for row in rows if row.is_difference]
        ks = pass_ks(differences)
        for k in sorted({*ks[:1], *ks[-1:]}):
            title = _title(benchmark, f"pass@{k}")
            height = 1.2 + 0.36 * max(2, len(differences))
            axes = _axes(title, "difference in percentage points", "", (SIZE[0], height))
            _draw_differences(axes, differences, f"pass@{k}")
            panels.append(_panel(axes))
    return panels


@styled
def length_panels(folder: EvaluationFolder) -> list[Panel]:
    """Share of completions by length, thinking and answer tokens apart; a line per arm, its median in the legend."""
    panels = []
    for (benchmark, checkpoint), arms in _records(folder).items():
        for name, words in (("thinking_tokens", "thinking tokens"), ("answer_tokens", "answer tokens")):
            lengths = {
                arm: np.array([length for record in records for length in record[name]], float)
                for arm, records in arms.items()
            }
            axes = _axes(_title(benchmark, checkpoint), words, "share of completions")
            _draw_lengths(axes, lengths)
            panels.append(_panel(axes))
    return panels


@styled
def truncation_panels(folder: EvaluationFolder) -> list[Panel]:
    """Share of completions that were cut off at the limit, with 95 % intervals; a line per checkpoint and arm."""
    panels = []
    for benchmark, rows in folder.rows.items():
        plain = [row for row in rows if not row.is_difference]
        if all(row.metrics["truncated"].value == 0 for row in plain):
            continue
        height = 1.2 + 0.3 * max(2, len(plain))
        axes = _axes(_title(benchmark, ""), "cut off, % of completions", "", (SIZE[0], height))
        for place, row in enumerate(plain):
            estimate, shade = row.metrics["truncated"], colour(row.arm, place)
            axes.plot([100 * estimate.low, 100 * estimate.high], [place] * 2, color=shade, lw=2.2)
            axes.plot(100 * estimate.value, place, "o", color=shade, markersize=6)
        _names(axes, [f"{row.checkpoint}: {row.arm}" for row in plain])
        axes.set_xlim(left=0)
        panels.append(_panel(axes))
    return panels


@styled
def temperature_panels(folder: EvaluationFolder) -> list[Panel]:
    """pass@1 and pass@(largest k) against temperature, for arms that differ in their temperature alone."""
    panels = []
    for benchmark, checkpoint, rows in _plain(folder):
        ks = pass_ks(rows)
        by_arm = {row.arm: row for row in rows}
        for k in sorted({*ks[:1], *ks[-1:]}):
            axes = _axes(_title(benchmark, checkpoint), "temperature", f"pass@{k}")
            for index, (name, arms) in enumerate(sweeps(folder.arms).items()):
                there = sorted((t, arm) for arm, t in arms.items() if arm in by_arm)
                if len(there) > 1:
                    estimates = [by_arm[arm].metrics[f"pass@{k}"] for _, arm in there]
                    _curve(axes, [t for t, _ in there], estimates, name, index)
            percent_axis(axes)
            if axes.lines:
                panels.append(_panel(axes))
    return panels


@styled
def checkpoint_panels(folder: EvaluationFolder) -> list[Panel]:
    """pass@1 and pass@(largest k) over the checkpoints in the order of their steps, where several ran."""
    panels = []
    for benchmark, rows in folder.rows.items():
        plain = [row for row in rows if not row.is_difference]
        labels, steps = steps_of(dict.fromkeys(row.checkpoint for row in plain))
        ks = pass_ks(plain)
        if len(labels) < 2:
            continue
        for k in sorted({*ks[:1], *ks[-1:]}):
            axes = _axes(_title(benchmark, ""), "training step" if steps else "checkpoint", f"pass@{k}")
            for index, arm in enumerate(dict.fromkeys(row.arm for row in plain)):
                by_label = {row.checkpoint: row.metrics[f"pass@{k}"] for row in plain if row.arm == arm}
                here = [i for i, label in enumerate(labels) if label in by_label]
                places = [steps[i] for i in here] if steps else here
                _curve(axes, places, [by_label[labels[i]] for i in here], arm, index)
            if not steps:
                turned = len(labels) > 2 and max(map(len, labels)) > 8
                axes.set_xticks(
                    range(len(labels)), labels, rotation=20 if turned else 0, ha="right" if turned else "center"
                )
            percent_axis(axes)
            panels.append(_panel(axes))
    return panels


def steps_of(labels: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Labels in the order of their steps, and the steps; no steps, and the given order, if a label ends in none."""
    found = {label: re.search(r"(?:checkpoint|step)[-_ ]?(\d+)$", label) for label in labels}
    if not all(found.values()):
        return list(labels), []
    steps = {label: int(match.group(1)) for label, match in found.items() if match}
    ordered = sorted(labels, key=lambda label: steps[label])
    return ordered, [steps[label] for label in ordered]


def _axes(title: str, across: str, up: str, size: tuple[float, float] = SIZE) -> Axes:
    axes = Figure(figsize=size, layout="constrained").subplots()
    axes.set(title=title, xlabel=across, ylabel=up)
    return axes


def _panel(axes: Axes) -> Panel:
    """The finished figure, its legend above the lines."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    if handles:
        columns = max(1, min(3, int(60 / (6 + max(map(len, labels))))))
        figure.set_figheight(figure.get_figheight() + 0.2 * (math.ceil(len(labels) / columns) - 1))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)
    if len(axes.lines) > FEW_LINES:
        for band in axes.collections:
            band.set_alpha(0.05)
    words = (axes.get_title(loc="left"), axes.get_ylabel(), axes.get_xlabel())
    return Panel(": ".join(word for word in words if word), figure)


def _curve(axes: Axes, across: Sequence[float], estimates: Sequence[Estimate], label: str, index: int) -> None:
    """A line with its 95 % band."""
    shade, marker = colour(label, index), MARKERS[index % len(MARKERS)]
    taken = [line.get_color() for line in axes.lines].count(shade)  # arms of one decoding have one colour
    line = LINES[taken % len(LINES)]
    axes.plot(across, [e.value for e in estimates], line, color=shade, marker=marker, markersize=4.5, label=label)
    low, high = [e.low for e in estimates], [e.high for e in estimates]
    axes.fill_between(across, low, high, color=shade, alpha=0.12, lw=0)


def _draw_differences(axes: Axes, differences: Sequence[SummaryRow], metric: str) -> None:
    axes.axvline(0, color=FAINT, lw=1)
    for place, row in enumerate(differences):
        estimate = row.metrics[metric]
        if math.isnan(estimate.low):
            continue
        shade = FAINT if not shows_difference(estimate) else HIGHER if estimate.low > 0 else LOWER
        axes.plot([100 * estimate.low, 100 * estimate.high], [place] * 2, color=shade, lw=2.2)
        filling = "white" if shade == FAINT else shade
        axes.plot(100 * estimate.value, place, "o", color=shade, markersize=6.5, markerfacecolor=filling)
    _names(axes, [f"{row.checkpoint}: {row.arm}" for row in differences])


def _names(axes: Axes, names: Sequence[str]) -> None:
    """Rows from the top down, their names broken where they would leave the figure no room."""
    axes.set_yticks(range(len(names)), [name.replace(": ", ":\n") if len(name) > 28 else name for name in names])
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _draw_lengths(axes: Axes, lengths: Mapping[str, Floats]) -> None:
    every = np.concatenate(list(lengths.values()))
    low, high = every.min(), max(every.max(), every.min() + 1)
    usual_low, usual_high = np.quantile(every, (0.02, 0.98))
    logarithmic = low > 0 and usual_high / usual_low > LOG_RANGE
    edges = (
        np.geomspace(low, high, BINS + 1)
        if logarithmic
        else np.linspace(low, high + 1, min(BINS, int(high - low) + 1) + 1)
    )
    for index, (arm, values) in enumerate(lengths.items()):
        shares = np.histogram(values, edges)[0] / len(values)  # (bins,)
        shade = colour(arm, index)
        line = LINES[[patch.get_edgecolor() for patch in axes.patches].count(to_rgba(shade)) % len(LINES)]
        label = f"{arm}, median {np.median(values):,.0f}"
        axes.stairs(shares, edges, color=shade, lw=1.6, ls=line, label=label)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(bottom=0)
    percent_axis(axes)


def _plain(folder: EvaluationFolder) -> Iterator[tuple[str, str, list[SummaryRow]]]:
    """Benchmark, checkpoint, and the rows of their arms."""
    for benchmark, rows in folder.rows.items():
        plain = [row for row in rows if not row.is_difference]
        for checkpoint in dict.fromkeys(row.checkpoint for row in plain):
            yield benchmark, checkpoint, [row for row in plain if row.checkpoint == checkpoint]


def _records(folder: EvaluationFolder) -> dict[tuple[str, str], dict[str, list[Record]]]:
    found: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in folder.records:
        group = group_of(record)
        found.setdefault((group.benchmark, group.checkpoint), {}).setdefault(group.arm, []).append(record)
    return found


def _title(benchmark: str, checkpoint: str) -> str:
    return ", ".join(part for part in (benchmark, checkpoint) if part)
