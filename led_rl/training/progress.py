"""The training bar: one readable line a step instead of a dict of sixty metrics."""

from typing import Any

from transformers.trainer_callback import ProgressCallback


class StepProgress(ProgressCallback):
    """transformers' progress bar; logged steps are written as reward, lengths, LED's exploration and wall time."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return
        if "reward" in logs:
            self.training_bar.write(describe(state.global_step, state.max_steps, logs))


def describe(step: int, steps: int, logs: dict[str, Any]) -> str:
    """One line of the metrics that tell how the run goes; the rest are in W&B and `trainer_state.json`."""
    parts = [f"step {step}/{steps}", f"reward {logs['reward']:.3f}"]
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
    return " | ".join(parts)
