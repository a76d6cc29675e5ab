"""Soft overlong punishment (DAPO, arXiv:2503.14476, equation 13)."""

from typing import Any


class Overlong:
    """0 up to `max_length - buffer` tokens, then linearly down to -1 at `max_length`, -1 beyond.

    Args:
        max_length: tokens of a completion at which the penalty is full (L_max).
        buffer: tokens before `max_length` over which it grows (L_cache); 0 is a step at `max_length`.

    Lengths are those of the `completion_ids` column that TRL hands to every reward.
    """

    def __init__(self, max_length: int, buffer: int) -> None:
        for name, value, least in (("max_length", max_length, 1), ("buffer", buffer, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
        if buffer > max_length:
            raise ValueError(f"buffer ({buffer}) must not exceed max_length ({max_length})")
        self.__name__ = "overlong"
        self.max_length = max_length
        self.buffer = buffer

    def __call__(self, completions: list[Any], completion_ids: Any = None, **columns: Any) -> list[float | None]:
        if completion_ids is None:
            raise ValueError("the overlong reward needs the completion_ids column (token ids of each completion)")
        return [self._penalty(len(ids)) for ids in completion_ids]

    def _penalty(self, length: int) -> float:
        excess = length - (self.max_length - self.buffer)
        if excess <= 0:
            return 0.0
        return -1.0 if excess >= self.buffer else -excess / self.buffer
