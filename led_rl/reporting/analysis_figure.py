"""The figure and the table of `led-rl analyse`, one line or column for each checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from led_rl.reporting.style import MARKERS, OTHER_COLOURS, WIDTH, colour, percent_axis, say, styled, whole_steps
from led_rl.terminal.tables import text_table

NORMS = (("without_norm", "-", ""), ("with_norm", ":", ", with the final norm"))


@styled
def save_analysis_figure(path: Path, analyses: Mapping[str, Mapping[str, Any]]) -> None:
    """Six panels, all checkpoints overlaid: entropies, coverage and candidates' entropy by layer; confidence, depth
    and explored share."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH * 1.3, 7.2), layout="constrained")
    panels = figure.subplots(2, 3)
    for index, (label, found) in enumerate(analyses.items()):
        shade = colour(label, index) if len(analyses) > 1 else OTHER_COLOURS[3]
        marker = MARKERS[index % len(MARKERS)]
        for panel, measure in zip(panels[0], ("entropy", "candidate_mass", "candidate_entropy"), strict=True):
            for key, line, note in NORMS:
                values = found["layers"].get(key, {}).get(measure)
                if values:
                    style = {"color": shade, "marker": marker, "markersize": 3.5}
                    panel.plot(values, line, label=f"{label}{note}", **style)
        bins = len(found["confidence"])
        edges = np.linspace(0, 1, bins + 1)
        panels[1, 0].stairs(found["confidence"], edges, color=shade, label=label, lw=1.8)
        depths = np.arange(len(found["depth"]))
        panels[1, 1].plot(depths, found["depth"], color=shade, marker=marker, label=label)
        for key, line, note in (
            ("explored_by_position", "-", "1 − confidence"),
            ("really_explored_by_position", ":", "recorded"),
        ):
            shares = [np.nan if share is None else share for share in found[key]]
            if not np.isnan(shares).all():
                places = (np.arange(len(shares)) + 0.5) / len(shares)
                panels[1, 2].plot(places, shares, line, color=shade, marker=marker, label=f"{label}, {note}")
    for panel, title in zip(
        panels.flat,
        (
            "entropy / log V of each layer",
            "mass on the final layer's top k",
            "entropy on the final layer's top k (nats)",
            "final-layer confidence",
            "depth that LED chooses (j*)",
            "explored share by position in the thinking",
        ),
        strict=True,
    ):
        panel.set(title=title, ylim=(0, 1.04 * panel.get_ylim()[1]))
        if not panel.has_data():
            say(panel, "nothing was read")
    for panel in panels[0]:
        panel.set_xlabel("layer (0: embeddings; last: final layer)")
        whole_steps(panel)
    panels[0, 0].legend()
    for panel in (*panels[1], panels[0, 1]):
        percent_axis(panel)
    panels[1, 0].set(xlabel="max p of the final layer", ylabel="thinking tokens")
    panels[1, 1].set_xlabel("latent layers in the aggregate")
    panels[1, 2].set_xlabel("relative position")
    panels[1, 2].legend()
    whole_steps(panels[1, 1])
    figure.savefig(path, format="png", dpi=160, metadata={"Software": None})


def analysis_table(analyses: Mapping[str, Mapping[str, Any]], meaning: Mapping[str, str]) -> str:
    """The figures of the verdict and the means behind it, a column for each checkpoint."""

    def cells(get: Any) -> list[str]:
        return [get(found) for found in analyses.values()]

    def interval(estimate: Mapping[str, Any], unit: float = 1.0) -> str:
        low, high = (unit * estimate[end] for end in ("low", "high"))
        return f"{unit * estimate['value']:.3f} [{low:.3f}, {high:.3f}]"

    lines = [["thinking tokens", *cells(lambda found: f"{found['tokens']:,}")]]
    lines.append(["problems (n)", *cells(lambda found: f"{found['problems']:,}")])
    for name, text in meaning.items():
        threshold = next(iter(analyses.values()))["verdict"]["thresholds"][name]
        lines.append(
            [
                f"{name}: {text}; threshold {threshold}",
                *cells(lambda found, name=name: interval(found["verdict"]["figures"][name])),
            ]
        )
    for name, text in (
        ("final_entropy", "final layer's entropy on its top k (nats)"),
        ("latent_entropy", "largest latent entropy on them (nats)"),
        ("mu_entropy", "entropy of what LED draws from (nats)"),
        ("explored", "share of tokens that LED explores"),
        ("confident", "share of tokens with confidence >= 0.9"),
    ):
        lines.append([text, *cells(lambda found, name=name: interval(found["means"][name]))])
    for measure, text in (
        ("top1", "top-1 mass"),
        ("top2", "top-2 mass"),
        ("top_k", "top-k mass"),
        ("candidate_mass", "mass on the final layer's top k"),
    ):
        lines.append(
            [f"{text}: final layer", *cells(lambda found, m=measure: f"{found['layers']['without_norm'][m][-1]:.3f}")]
        )
        for key, note in (("without_norm", ""), ("with_norm", ", with the final norm")):

            def latent_mean(found: Mapping[str, Any], key: str = key, measure: str = measure) -> str:
                if key not in found["layers"] or not found["latent_layers"]:
                    return "–"
                return f"{np.mean([found['layers'][key][measure][layer] for layer in found['latent_layers']]):.3f}"

            lines.append([f"{text}: mean of LED's latent layers{note}", *cells(latent_mean)])
    return text_table(["", *analyses], lines)
