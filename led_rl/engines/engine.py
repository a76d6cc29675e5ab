"""The records that every engine takes and returns."""

from dataclasses import dataclass
from typing import Any, Protocol

from led_rl.decoding import DecodingParams


@dataclass(frozen=True)
class Sampling:
    """Standard sampling of a request; while a LED request thinks, k takes the place of top_p, top_k and min_p."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    max_tokens: int = 128
    n: int = 1  # completions per prompt
    seed: int = 0  # completion j of prompt i draws from a stream of its own, fixed by (seed, i, j)


@dataclass(frozen=True)
class Completion:
    """One sampled completion, the closing end-of-sequence token included."""

    token_ids: list[int]
    logprobs: list[float]  # of each token under the behaviour policy it was drawn from, nats
    thinking: list[bool]  # whether each token was sampled while thinking
    finished: bool  # False: cut off at max_tokens
    statistics: dict[str, Any] | None = None  # what its decoding did (engines/request_statistics.py)


class Engine(Protocol):
    """What evaluation needs of an engine."""

    def generate(
        self, prompts: list[list[int]], decoding: DecodingParams, sampling: Sampling
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt of token ids, in order."""

    def load_weights(self, checkpoint: str) -> None:
        """Replaces the weights by those of another checkpoint of the same architecture."""
