"""The figure of a study: accuracy over temperature, rewards, differences of claims, entropy by layer; what there is."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from led_rl.reporting.style import FAINT, HIGHER, LOWER, MARKERS, colour, new_figure, percent_axis, styled, whole_steps
from led_rl.study.claims import REFUTED, SHOWN

Found = Mapping[str, Any]
LINES = ("-", "--", ":", "-.")  # of curves that share a colour


@styled
def save_figure(path: Path, found: Found) -> Path | None:
    """Writes the figure; returns None where nothing has been run that it could show."""
    panels = [draw for shown, draw in (
        (_has_sweeps(found), _accuracy),
        (bool(_reward_curves(found)), _rewards),
        (any(_in_points(claim) for claim in _claims(found)), _differences),
        (found["layers"], _entropies),
    ) if shown]  # fmt: skip
    if not panels:
        return None
    figure, axes = new_figure(len(panels), height=3.8, rows=2 if len(panels) == 4 else 1)
    for draw, panel in zip(panels, axes, strict=True):
        draw(panel, found)
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})
    return path


def _claims(found: Found) -> list[Found]:
    return [*found["claims"], *(found.get("confirmation") or {}).get("claims", [])]


def _in_points(claim: Found) -> bool:
    """Whether a claim is about shares of 1, and has been tested."""
    return "pass@" in claim["figure"] and (claim.get("estimate") or {}).get("value") is not None


def _reward_curves(found: Found) -> dict[str, Any]:
    """Array (seeds, points, 2) of steps and mean rewards for each training arm."""
    return {row["arm"]: np.array(row["curves"]) for row in found["training"] if row["figure"] == "reward"}


def _rewards(panel: Any, found: Found) -> None:
    """Training reward of every arm: the mean over its seeds, and between which values they lie."""
    for index, (arm, curves) in enumerate(_reward_curves(found).items()):
        steps, rewards = curves[0, :, 0], curves[:, :, 1]
        style = {"color": colour(arm, index), "marker": MARKERS[index % len(MARKERS)], "markersize": 3.5}
        style["linestyle"] = LINES[sum(line.get_color() == style["color"] for line in panel.lines) % len(LINES)]
        panel.plot(steps, rewards.mean(axis=0), label=arm, **style)
        panel.fill_between(steps, rewards.min(axis=0), rewards.max(axis=0), color=style["color"], alpha=0.12, lw=0)
    panel.set(title="training reward (area: all seeds)", xlabel="step", ylim=(0, None))
    percent_axis(panel)
    panel.legend(fontsize=7)


def _has_sweeps(found: Found) -> bool:
    return bool(found["sweeps"])


def _accuracy(panel: Any, found: Found) -> None:
    """pass@1 (lines) and pass@n (dashed) of every sweep over temperature."""
    cells = {(row["arm"], row["decoding"]): row for row in found["cells"]}
    most = max(row["k"] for row in found["sweeps"])
    sweeps = {(row["arm"], row["sweep"]): row["temperatures"] for row in found["sweeps"]}
    arms = list(dict.fromkeys(arm for arm, _ in sweeps))
    for (arm, sweep), temperatures in sweeps.items():
        there = sorted((t, name) for name, t in temperatures.items() if (arm, name) in cells)
        for k, line in ((1, "-"), (most, "--")):
            values = [cells[arm, name][f"pass@{k}"]["value"] for _, name in there]
            label = f"{arm}, {sweep}" if k == 1 else ""
            marker = MARKERS[arms.index(arm) % len(MARKERS)]
            style = {"color": colour(sweep), "marker": marker, "markersize": 4, "label": label}
            panel.plot([t for t, _ in there], values, line, **style)
    panel.set(title=f"pass@1, pass@{most} (dashed)", xlabel="temperature", ylim=(0, None))
    percent_axis(panel)
    panel.legend(fontsize=7)


def _differences(panel: Any, found: Found) -> None:
    """Difference and interval of every claim, in the claimed direction, coloured by its verdict."""
    rows = [claim for claim in _claims(found) if _in_points(claim)]
    for place, claim in enumerate(reversed(rows)):
        estimate, sign = claim["estimate"], 1 if claim["expected"] == "larger" else -1
        value = 100 * sign * estimate["value"]
        ends = sorted(100 * sign * estimate[end] for end in ("low", "high"))
        shade = {SHOWN: HIGHER, REFUTED: LOWER}.get(claim["verdict"], FAINT)
        panel.plot(ends, [place, place], color=shade, lw=1.6)
        panel.plot([value], [place], "o", color=shade, markersize=5)
    panel.axvline(0, color=FAINT, lw=0.8)
    names = [textwrap.fill(claim["text"], 32) for claim in reversed(rows)]
    panel.set_yticks(range(len(rows)), names, fontsize=7)
    panel.set(title="claimed differences", xlabel="points towards the claim (of slopes: per unit of T)")


def _entropies(panel: Any, found: Found) -> None:
    """Entropy over the vocabulary by layer, without the final norm, as LED reads; mean over the seeds of an arm.

    The embeddings (layer 0), which know nothing of the next token, are left out.
    """
    groups: dict[str, list[list[float]]] = {}
    for label, layers in found["layers"].items():
        groups.setdefault(label.rpartition("_seed")[0] or label, []).append(layers["layers"]["without_norm"]["entropy"])
    for index, (name, curves) in enumerate(groups.items()):
        values = np.mean(curves, axis=0)
        style = {"color": colour(name, index), "marker": MARKERS[index % len(MARKERS)], "markersize": 3.5}
        panel.plot(np.arange(1, len(values)), values[1:], label=name, **style)
    panel.set(title="entropy / log V by layer", xlabel="layer (last: final)", ylim=(0, None))
    whole_steps(panel)
    panel.legend(fontsize=7)
