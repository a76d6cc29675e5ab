"""What `led-rl benchmark` is asked to measure."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError
from led_rl.methods.properties import PROPERTIES

ARMS = ("top_k_control", "led_coin", "led_marginal", "led_reference")
BASELINE_ARMS = tuple(name for name, properties in PROPERTIES.items() if properties.own_keys)  # measured if named


class BenchmarkError(UserError):
    """What was asked for cannot be measured; names the option."""


@dataclass(frozen=True)
class Settings:
    """Sizes, arms and engine of one benchmark; `batches` and `contexts` make a grid. Exactly one of model, shape."""

    model: str | None
    shape: str | None
    output: Path
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    new_tokens: int
    rounds: int
    depth: int
    k: int
    vocab: int | None
    latent_norm: bool
    arms: tuple[str, ...]
    with_plain: bool
    temperature: float
    explored_fraction: float | None
    top_p: float
    top_k: int
    logprobs: bool
    dtype: str
    eager: bool
    threads: int | None
    gpu_memory: float
    seed: int

    @property
    def longest(self) -> int:
        return max(self.contexts) + self.new_tokens

    @property
    def warmup_tokens(self) -> int:
        return max(4, self.new_tokens // 4)

    def engine_arguments(self, engines: int = 1) -> dict[str, Any]:
        """Arguments of vLLM's engine, one of `engines` on a device: room for the largest batch and context."""
        import torch

        arguments: dict[str, Any] = {
            "max_model_len": self.longest,
            "max_num_seqs": max(self.batches),
            "dtype": self.dtype,
            "enforce_eager": self.eager,
        }
        if torch.cuda.is_available():
            arguments["gpu_memory_utilization"] = self.gpu_memory / engines
        return arguments

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "output": str(self.output)}
