"""Series of a trainer's `log_history`, smoothed for the eye."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from led_rl.evaluation.estimates import Floats

History = Sequence[Mapping[str, Any]]  # a trainer's log_history


Histories = Mapping[str, History]  # by run


def series(history: History, key: str) -> tuple[Floats, Floats]:
    """Steps and finite values of one logged key; both empty if it was never logged."""
    points = [
        (entry["step"], entry[key])
        for entry in history
        if "step" in entry and isinstance(entry.get(key), int | float) and math.isfinite(entry[key])
    ]
    array = np.array(points, dtype=float).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def smoothing_window(points: int) -> int:
    """Points in the centred mean drawn over the raw values: odd, about a tenth of them; 1 (none) for short runs."""
    return 1 if points < 15 else max(3, points // 10 | 1)


def smooth(values: Floats) -> Floats:
    """Centred mean; windows shrink at the ends."""
    half = smoothing_window(len(values)) // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])
