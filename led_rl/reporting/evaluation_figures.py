"""Figures of evaluations: pass@k curves, paired differences, and the entropy of every layer."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from led_rl.evaluation.estimates import Z95, shows_difference
from led_rl.evaluation.layers.entropy import LayerEntropies, entropy_change
from led_rl.evaluation.summary import SummaryRow, pass_ks
from led_rl.reporting.style import (
    FAINT,
    HIGHER,
    INK,
    LOWER,
    MARKERS,
    colour,
    legend_on_top,
    new_figure,
    percent_axis,
    say,
    styled,
    whole_steps,
)


@styled
def pass_figure(rows: Sequence[SummaryRow]) -> Figure:
    """pass@k against k: one panel per checkpoint, one line with a 95 % band per decoding."""
    plain = [row for row in rows if not row.is_difference]
    checkpoints = list(dict.fromkeys(row.checkpoint for row in plain))
    figure, panels = new_figure(max(1, len(checkpoints)), height=3.4, share_y=True)
    if not checkpoints:
        say(panels[0], "no evaluation was given")
    for axes, checkpoint in zip(panels, checkpoints, strict=False):
        here = [row for row in plain if row.checkpoint == checkpoint]
        ks = pass_ks(here)
        for index, row in enumerate(here):
            estimates = [row.metrics[f"pass@{k}"] for k in ks]
            shade, marker = colour(row.arm, index), MARKERS[index % len(MARKERS)]
            axes.plot(ks, [e.value for e in estimates], color=shade, marker=marker, markersize=4.5, label=row.arm)
            axes.fill_between(
                ks, [e.low for e in estimates], [e.high for e in estimates], color=shade, alpha=0.12, lw=0
            )
        if any(not math.isnan(row.metrics[f"pass@{k}"].value) for row in here for k in ks):
            axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.set(title=f"{checkpoint} ({max(row.problems for row in here)} problems)", xlabel="samples, k")
        percent_axis(axes)
    legend_on_top(figure, max(panels, key=lambda axes: len(axes.lines)))
    panels[0].set_ylabel("pass@k")
    return figure


@styled
def difference_figure(rows: Sequence[SummaryRow]) -> Figure:
    """Paired differences of pass@1 and of pass@(largest k) with 95 % intervals; filled where one is shown."""
    differences = [row for row in rows if row.is_difference]
    ks = pass_ks(differences)
    shown = sorted({ks[0], ks[-1]}) if ks else [1]
    figure, panels = new_figure(len(shown), height=1.0 + 0.34 * max(3, len(differences)), share_y=True)
    if not differences:
        say(panels[0], "no paired comparison was made")
        return figure
    names = [f"{row.checkpoint}: {row.arm}" for row in differences]
    for axes, k in zip(panels, shown, strict=True):
        axes.axvline(0, color=FAINT, lw=1)
        for place, row in enumerate(differences):
            estimate = row.metrics.get(f"pass@{k}")
            if estimate is None or math.isnan(estimate.low):
                continue
            shade = FAINT if not shows_difference(estimate) else HIGHER if estimate.low > 0 else LOWER
            axes.plot([100 * estimate.low, 100 * estimate.high], [place] * 2, color=shade, lw=2.2)
            filling = "white" if shade == FAINT else shade
            axes.plot(100 * estimate.value, place, "o", color=shade, markersize=6.5, markerfacecolor=filling)
        n = sorted({row.metrics[f"pass@{k}"].n for row in differences if f"pass@{k}" in row.metrics})
        title = f"pass@{k} (n = {' to '.join(map(str, sorted({*n[:1], *n[-1:]})))} problems)"
        axes.set(title=title, xlabel="difference in percentage points", ylim=(len(differences) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].tick_params(axis="y", labelcolor=INK, length=0)
    return figure


@styled
def entropy_figure(entropies: Mapping[str, LayerEntropies]) -> Figure:
    """Normalised entropy of each layer's posterior with a 95 % band; right: the change from the first checkpoint."""
    figure, (levels, changes) = new_figure(2, height=3.5)
    if not entropies:
        say(levels, "no layer entropies were given")
        say(changes, "no layer entropies were given")
        return figure
    reference, first = next(iter(entropies.items()))
    for index, (label, measured) in enumerate(entropies.items()):
        mean, error = np.array(measured.mean), np.nan_to_num(np.array(measured.standard_error))  # (layers + 1,)
        layers = np.arange(len(mean))
        shade, marker = colour(label, index), MARKERS[index % len(MARKERS)]
        levels.plot(layers, mean, color=shade, marker=marker, markersize=4.5, label=label)
        levels.fill_between(layers, mean - Z95 * error, mean + Z95 * error, color=shade, alpha=0.15, lw=0)
        if label != reference and len(first.mean) == len(mean) and first.counts == measured.counts:
            change, error = (figures[:-1] for figures in entropy_change(first, measured))
            changes.plot(layers, change, color=shade, marker=marker, markersize=4.5, label=f"{label} − {reference}")
            error = np.nan_to_num(error)
            changes.fill_between(layers, change - Z95 * error, change + Z95 * error, color=shade, alpha=0.15, lw=0)
    levels.set(title="entropy / log V", ylim=(0, None))
    levels.legend()
    if changes.lines:
        changes.legend()
        changes.axhline(0, color=FAINT, lw=1)
    else:
        say(changes, "no other checkpoint was read on the same sequences")
    changes.set_title(f"change from {reference}")
    for axes in (levels, changes):
        axes.set_xlabel("layer (0: embeddings; last: final layer)")
    whole_steps(levels)
    if changes.lines:
        whole_steps(changes)
    return figure
