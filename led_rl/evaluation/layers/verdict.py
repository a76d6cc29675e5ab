"""Whether a model holds a latent entropy reservoir: three figures, their thresholds, and what follows from them.

A reservoir is what LED reads: latent layers that are less decided than the final layer, about the candidates that the
final layer itself proposes. With H in nats on the final layer's k candidates, over the thinking tokens:

    gain     mean of  max_l H(p_l) - H(p_L)  over LED's latent layers l                              above 0.1
    hidden   share of tokens with  max p_L >= 0.9  and  max_l H(p_l) >= log 2                        above 0.05
    overlap  mean share of the candidates among a latent layer's own k most probable tokens          above 0.25

`has`: all three intervals lie above their thresholds. `has no`: one lies below. Otherwise `undecided`. Without the
third figure, layers that know nothing of the next token (flat noise) would pass for a reservoir.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from led_rl.evaluation.estimates import Estimate, proportion_interval, ratio_difference, ratio_interval
from led_rl.evaluation.layers.analysis import CONFIDENT, MEASURES, POSITION_BINS, SCALARS, Analysis

THRESHOLDS = {"gain": 0.1, "hidden": 0.05, "overlap": 0.25}
MEANING = {
    "gain": "max latent entropy − final-layer entropy (nats)",
    "hidden": f"tokens with confidence >= {CONFIDENT} and latent entropy >= log 2",
    "overlap": "final layer's candidates among a latent layer's own",
}


@dataclass(frozen=True)
class Verdict:
    """What the rule says of a model."""

    outcome: str  # has, has no, undecided
    figures: dict[str, Estimate]  # gain, hidden, overlap

    @property
    def sentence(self) -> str:
        """The verdict in one line."""
        if self.outcome == "undecided":
            n = self.figures["gain"].n
            open_ = ", ".join(name for name, figure in self.figures.items() if _side(name, figure) == 0)
            return f"it is undecided whether this model has a latent entropy reservoir ({open_}; n = {n} problems)"
        below = [name for name, figure in self.figures.items() if _side(name, figure) < 0]
        reason = f" (below its threshold: {', '.join(below)})" if below else ""
        return f"this model {self.outcome} latent entropy reservoir{reason}".replace("has latent", "has a latent")


def _side(name: str, figure: Estimate) -> int:
    """1 above the threshold, -1 below, 0 undecided (or no interval)."""
    return int(figure.low > THRESHOLDS[name]) - int(figure.high < THRESHOLDS[name])


def judge(analysis: Analysis) -> Verdict:
    """The verdict, with 95 % intervals that resample problems."""
    tokens = analysis.tokens
    figures = {
        "gain": ratio_difference(
            (analysis.scalar("latent_entropy"), tokens), (analysis.scalar("final_entropy"), tokens)
        ),
        "hidden": _share_of_tokens(analysis, "hidden"),
        "overlap": _share_of_tokens(analysis, "latent_overlap"),
    }
    sides = [_side(name, figure) for name, figure in figures.items()]
    outcome = "has no" if -1 in sides else "has" if all(side > 0 for side in sides) else "undecided"
    return Verdict(outcome, figures)


def _share_of_tokens(analysis: Analysis, name: str) -> Estimate:
    """A rate over tokens. Where all problems show the same one (0, say), a bootstrap's interval would have no width."""
    rates = analysis.scalar(name) / analysis.tokens
    if np.ptp(rates) == 0:
        return proportion_interval(rates)
    estimate = ratio_interval(analysis.scalar(name), analysis.tokens)
    return replace(estimate, high=min(estimate.high, 1.0))


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Everything that the figure and the table show, as plain values."""
    verdict, tokens = judge(analysis), analysis.tokens
    total = float(tokens.sum())
    expected, known = analysis.positions[..., 0].sum(0), analysis.positions[..., 1].sum(0)
    real, real_known = analysis.positions[..., 2].sum(0), analysis.positions[..., 3].sum(0)
    return {
        "verdict": {
            "outcome": verdict.outcome,
            "sentence": verdict.sentence,
            "figures": {name: asdict(figure) for name, figure in verdict.figures.items()},
            "thresholds": THRESHOLDS,
        },
        "problems": len(tokens),
        "tokens": int(total),
        "k": analysis.k,
        "temperature": analysis.temperature,
        "vocabulary": analysis.vocabulary,
        "latent_layers": list(analysis.latent_layers),
        "means": {name: asdict(ratio_interval(analysis.scalar(name), tokens)) for name in SCALARS},
        "layers": {
            key: {name: analysis.layer_means(name, norm).tolist() for name in MEASURES}
            for key, norm in (("without_norm", False), ("with_norm", True))
            if analysis.has_norm or not norm
        },
        "confidence": (analysis.confidence.sum(0) / total).tolist(),
        "depth": (analysis.depth.sum(0) / total).tolist(),
        "explored_by_position": [_over(expected[i], known[i]) for i in range(POSITION_BINS)],
        "really_explored_by_position": [_over(real[i], real_known[i]) for i in range(POSITION_BINS)],
    }


def _over(count: float, of: float) -> float | None:
    return float(count / of) if of else None
