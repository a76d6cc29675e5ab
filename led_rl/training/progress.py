"""The training bar: one readable line a step instead of a dict of sixty metrics."""

import time
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from transformers import TrainerCallback

from led_rl.terminal.progress_bar import ProgressBar, progress_bar
from led_rl.training.evaluation_keys import describe_evaluation


class StepProgress(TrainerCallback):
    """A bar over the steps of the run; logged steps are lines of reward, lengths, LED's exploration and times."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._bar: ProgressBar | None = None
        self._began = (0, 0.0)  # step and time

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._began = (state.global_step, time.monotonic())
            self._bar = self._open.enter_context(
                progress_bar(state.max_steps, "training", "step", state.global_step, log_every=float("inf"))
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self._bar is not None and logs and "reward" in logs:
            done, seconds = state.global_step - self._began[0], time.monotonic() - self._began[1]
            left = (state.max_steps - state.global_step) * seconds / done if done else None
            self._bar.write(describe(state.global_step, state.max_steps, logs, left))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        if self._bar is not None and metrics:
            self._bar.write(describe_evaluation(state.global_step, metrics))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar = None
        self._open.close()


def describe(step: int, steps: int, logs: dict[str, Any], seconds_left: float | None = None) -> str:
    """One line of the metrics that tell how the run goes; the rest are in W&B and `trainer_state.json`."""
    reward = logs["reward"]  # None when no completion of the step could be judged
    parts = [f"step {step}/{steps}", "reward none" if reward is None else f"reward {reward:.3f}"]
    if "rollout/thinking_length" in logs:
        thinking, answer = logs["rollout/thinking_length"], logs["rollout/answer_length"]
        parts.append(f"tokens {thinking:.0f} thought + {answer:.0f} answer")
    elif "rollout/total_length" in logs:
        parts.append(f"tokens {logs['rollout/total_length']:.0f}")
    if "led/explored_fraction" in logs:
        parts.append(f"explored {logs['led/explored_fraction']:.1%}")
    times = [f"{name} {logs[f'time/{name}']:.1f}" for name in ("rollout", "training") if f"time/{name}" in logs]
    if times:
        parts.append(f"seconds {' + '.join(times)}")
    if logs.get("grad_norm") is not None:
        parts.append(f"grad norm {float(logs['grad_norm']):.2g}")
    if seconds_left:
        parts.append(f"{timedelta(seconds=round(seconds_left))} left")
    return " | ".join(parts)
