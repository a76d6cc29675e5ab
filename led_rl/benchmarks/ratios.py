"""The spread of ratios of neighbouring measurements, and how it is written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from led_rl.evaluation.estimates import mean_interval


@dataclass(frozen=True)
class Ratios:
    """Throughput over that of the neighbouring standard blocks."""

    median: float
    quartiles: tuple[float, float]
    mean: float  # geometric
    interval: tuple[float, float] | None  # 95 %, of the mean; None for a single ratio
    n: int


def spread(ratios: Sequence[float]) -> Ratios | None:
    if not ratios:
        return None
    low, middle, high = (float(value) for value in np.quantile(ratios, (0.25, 0.5, 0.75)))
    mean = mean_interval(np.log(ratios))
    interval = (math.exp(mean.low), math.exp(mean.high)) if len(ratios) > 1 else None
    return Ratios(middle, (low, high), math.exp(mean.value), interval, len(ratios))


def within(value: float, interval: tuple[float, float] | None) -> str:
    """A ratio and an interval around it."""
    return f"{value:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")
