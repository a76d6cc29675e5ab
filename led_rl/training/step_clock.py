"""Measures where the wall time of each optimizer step goes, and makes all processes stop after the same step."""

import time
from typing import Any

import torch
from transformers import TrainerCallback

PARTS = ("rollout", "reward", "weight_sync", "training")


class StepClock(TrainerCallback):
    """Logs `time/*` of each optimizer step, optimizer included, before TRL logs the step; the slowest process counts.

    What happens between two steps (evaluation, saving) belongs to none of them.

    Attributes:
        reward_seconds, tokens: what the trainer adds up during a step.
        stop: whether this process was asked to stop. Once one was, all save after the same step and stop.
        stopped: whether training ended that way.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.reward_seconds = self.tokens = self.started = 0.0
        self.stop = self.stopped = False

    def ask_to_stop(self) -> None:
        self.stop = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # TRL counts micro-batches from 0: a run resumed between two rollouts would roll out of phase with its batches
        self.trainer._step = state.global_step * args.gradient_accumulation_steps

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._take_engine_seconds()
        self.reward_seconds = self.tokens = 0.0
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        rollout, weight_sync = self._take_engine_seconds()
        training = time.perf_counter() - self.started - rollout - weight_sync - self.reward_seconds
        trainer = self.trainer
        parts = [rollout, self.reward_seconds, weight_sync, training, float(self.stop)]
        local = torch.tensor([parts], device=trainer.accelerator.device)
        *slowest, stop = trainer.accelerator.gather(local).amax(0).tolist()
        for name, seconds in zip(PARTS, slowest, strict=True):
            trainer.append_metric(f"time/{name}", seconds)
        if slowest[0]:
            trainer.append_metric("rollout/tokens_per_second", self.tokens / slowest[0])
        if stop and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.stopped = True
        return control

    def _take_engine_seconds(self) -> tuple[float, float]:
        return self.trainer.vllm_generation.take_seconds() if self.trainer.use_vllm else (0.0, 0.0)
