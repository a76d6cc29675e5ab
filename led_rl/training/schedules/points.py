"""A number as a function of the step: held from given steps on, or linear between them."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from led_rl.decoding import LARGEST_INTEGER
from led_rl.training.checks.values import is_finite

KINDS = ("linear", "steps")
SHAPE = "{linear: {STEP: VALUE, ...}} or {steps: {STEP: VALUE, ...}}"


@dataclass(frozen=True)
class Points:
    """The value of each step, from the values of some.

    Attributes:
        kind: `steps` holds each value until the next point, `linear` goes straight to it.
        points: (step, value) by ascending step; the first step is 0. The last value stays for ever.
        whole: values are rounded to whole numbers, halves up.
    """

    kind: str
    points: tuple[tuple[int, float], ...]
    whole: bool = False

    @classmethod
    def read(cls, key: str, given: Any, start: float, whole: bool = False) -> "Points":
        """The points of a recipe's key; `start` is the value of step 0 where they name none.

        Raises:
            ValueError: names the key, what was given and what is allowed.
        """
        if given is None:
            return cls("steps", ((0, start),), whole)
        if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in KINDS:
            raise ValueError(f"{key} must be {SHAPE}; got {given!r}")
        ((kind, named),) = given.items()
        if not isinstance(named, Mapping) or not named:
            raise ValueError(f"{key} must be {SHAPE}; got {given!r}")
        points: dict[int, float] = {}
        for step, value in named.items():
            number = int(step) if isinstance(step, str) and step.isdecimal() else step
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ValueError(f"{key}: a step must be a whole number from 0 on; got {step!r}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
                raise ValueError(f"{key}: the value of step {number} must be a number; got {value!r}")
            if number in points:
                raise ValueError(f"{key}: step {number} stands twice; each step may stand once")
            if whole and (value != int(value) or value > LARGEST_INTEGER):
                limit = f" up to {LARGEST_INTEGER}" if value > LARGEST_INTEGER else ""
                raise ValueError(f"{key}: the value of step {number} must be a whole number{limit}; got {value!r}")
            points[number] = value
        return cls(kind, tuple(sorted(({0: start} | points).items())), whole)

    def at(self, step: int) -> float:
        """The value of a step."""
        i = bisect_right(self.points, (step, math.inf)) - 1
        first, value = self.points[i]
        if self.kind == "linear" and i + 1 < len(self.points):
            last, goal = self.points[i + 1]
            value += (goal - value) * (step - first) / (last - first)
        return math.floor(value + 0.5) if self.whole else value

    @property
    def values(self) -> list[float]:
        """The values of the points: all others lie between them."""
        return [value for _, value in self.points]
