"""Penalty for repeated n-grams."""

from typing import Any

from rewards.answer_text.completions import completion_texts


class Repetition:
    """`-penalty · (1 - distinct n-grams / n-grams)`: 0 when no n-gram repeats, towards `-penalty` for a loop.

    Args:
        n: length of the n-grams; tokens where the `completion_ids` column is given, else whitespace-separated words.
        penalty: size of the largest penalty, > 0.
        allowed: share of repeated n-grams that goes unpunished, in [0, 1): mathematics repeats itself.
    """

    def __init__(self, n: int = 20, penalty: float = 1.0, allowed: float = 0.0) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"n must be an integer >= 1, got {n!r}")
        if not penalty > 0:
            raise ValueError(f"penalty must be > 0, got {penalty!r}")
        if not 0 <= allowed < 1:
            raise ValueError(f"allowed must be in [0, 1), got {allowed!r}")
        self.__name__ = "repetition"
        self.n = n
        self.penalty = penalty
        self.allowed = allowed

    def __call__(self, completions: list[Any], completion_ids: Any = None, **columns: Any) -> list[float | None]:
        sequences = completion_ids
        if sequences is None:
            sequences = [text.split() for text in completion_texts(completions)]
        return [self._score(list(sequence)) for sequence in sequences]

    def _score(self, sequence: list) -> float:
        count = len(sequence) - self.n + 1
        if count < 2:
            return 0.0
        distinct = len({tuple(sequence[start : start + self.n]) for start in range(count)})
        repeated = 1 - distinct / count
        if repeated <= self.allowed:
            return 0.0
        return -self.penalty * (repeated - self.allowed) / (1 - self.allowed)
