"""TRL's vLLM rollout engine, built so that it can sample with LED and say what it did."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import trl.generation.vllm_generation as trl_generation
import trl.trainer.grpo_trainer as trl_grpo_trainer
from trl.generation.vllm_generation import VLLMGeneration

from led_rl.engines.vllm_engine import CPU_ENGINE_ARGUMENTS, engine_environment, led_batch
from led_rl.engines.vllm_models import EngineOptions


class LEDVLLMGeneration(VLLMGeneration):
    """`VLLMGeneration` with the engine arguments that TRL hard-codes open, and its wall time measured.

    Args:
        options: what the engine captures for LED; depth 0 builds plain vLLM.
        engine_arguments: arguments of `vllm.LLM` that take precedence over TRL's.
        run_seed: the run's seed; each tensor-parallel group of processes samples from a stream of its own.
    """

    def __init__(
        self, *args: Any, options: EngineOptions, engine_arguments: dict[str, Any], run_seed: int, **kwargs: Any
    ):
        self.options = options
        self.run_seed = run_seed
        self.engine_arguments = engine_arguments
        self.sync_seconds = 0.0  # since `take_seconds`
        self.generate_seconds = 0.0
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        if self.mode == "server":
            return super()._init_vllm()
        build = trl_generation.LLM
        cpu = {} if torch.cuda.is_available() else CPU_ENGINE_ARGUMENTS

        def build_with_ours(**trl_arguments: Any) -> Any:
            # TRL seeds the engine with the rank alone, which also reseeds this process: pass the run's seed on.
            seed = (self.run_seed * 1_000_003 + trl_arguments.pop("seed")) % 2**31
            return build(**{**trl_arguments, "seed": seed, **cpu, **self.engine_arguments})

        with engine_environment(self.options), replaced(trl_generation, "LLM", build_with_ours):
            return super()._init_vllm()

    def sync_weights(self) -> None:
        start = time.perf_counter()
        super().sync_weights()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.sync_seconds += time.perf_counter() - start

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        start, synced = time.perf_counter(), self.sync_seconds
        try:
            return super().generate(*args, **kwargs)
        finally:  # waking a sleeping engine may sync weights on the way
            self.generate_seconds += time.perf_counter() - start - (self.sync_seconds - synced)

    def take_seconds(self) -> tuple[float, float]:
        """Seconds of rollout and of weight sync since the last call."""
        taken = self.generate_seconds, self.sync_seconds
        self.generate_seconds = self.sync_seconds = 0.0
        return taken

    def take_statistics(self) -> dict[str, float] | None:
        """LED's sums over this process's rows since the last call (`LEDStatistics`); None where the engine has none."""
        if self.mode == "server" or not self.options.depth:
            return None
        return led_batch(self.llm).statistics.totals(reset=True)


@contextmanager
def rollouts_by(make: Any) -> Iterator[None]:
    """While open, `GRPOTrainer.__init__` builds its rollout engine with `make`: TRL has no argument for it."""
    with replaced(trl_grpo_trainer, "VLLMGeneration", make):
        yield


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """`module.name` is `value` while open. A name that is gone raises, so that a changed TRL is noticed."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
