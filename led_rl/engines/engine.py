"""The records that every engine takes and returns."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from led_rl.decoding import DecodingParams, UserError


class EngineError(UserError):
    """An engine that could not be built, or that ended while requests were in flight."""


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
class Request:
    """One completion that is asked for: `sampling.n` is ignored, and `sampling.seed` is the seed of this request."""

    prompt: list[int]
    decoding: DecodingParams
    sampling: Sampling


@dataclass(frozen=True)
class Completion:
    """One sampled completion, the closing end-of-sequence token included."""

    token_ids: list[int]
    logprobs: list[float]  # of each token under the behaviour policy it was drawn from, nats
    thinking: list[bool]  # whether each token was sampled while thinking
    finished: bool  # False: cut off at max_tokens
    statistics: dict[str, Any] | None = None  # what its decoding did (vllm_plugin/request_statistics.py)
    explored: list[bool] | None = None  # whether each token was drawn from latent layers; None: the engine cannot say
    wall_s: float | None = None  # seconds from `add` to the last token


class Engine(Protocol):
    """What evaluation needs of an engine.

    Attributes:
        capacity: requests that should be in flight so that the engine never waits for more.
    """

    capacity: int

    def add(self, index: int, request: Request) -> None:
        """Takes a request; its completion comes under the same index."""

    def step(self) -> list[tuple[int, Completion]]:
        """Works for a while; the completions that finished meanwhile, in any order."""

    def load_weights(self, checkpoint: str) -> None:
        """Replaces the weights by those of another checkpoint of the same architecture."""

    def close(self) -> None:
        """Ends the engine and frees its memory."""


def stream(engine: Engine, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
    """Index and completion of every request as it finishes; no more than `engine.capacity` are in flight."""
    waiting, in_flight, exhausted = enumerate(requests), 0, False
    while True:
        while not exhausted and in_flight < engine.capacity:
            if (following := next(waiting, None)) is None:
                exhausted = True
            else:
                engine.add(*following)
                in_flight += 1
        if not in_flight:
            return
        for finished in engine.step():
            in_flight -= 1
            yield finished
