"""The loss at a temperature that changes: TRL's fused LM head keeps the one that it was built with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trl.trainer.utils as trl_utils

from led_rl.training.rollout import replaced


class AtTemperature:
    """TRL's function of the fused LM head, called with a temperature of its own."""

    def __init__(self, head: Any, temperature: float):
        self.head, self.temperature = head, temperature

    def apply(
        self, hidden: Any, weight: Any, bias: Any, targets: Any, temperature: float, *rest: Any
    ) -> tuple[Any, ...]:
        return self.head.apply(hidden, weight, bias, targets, self.temperature, *rest)


@contextmanager
def scored_at(temperature: float) -> Iterator[None]:
    """While open, TRL's fused LM head divides logits by `temperature`."""
    with replaced(trl_utils, "_ChunkedLogProbFunction", AtTemperature(trl_utils._ChunkedLogProbFunction, temperature)):
        yield
