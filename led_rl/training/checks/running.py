"""Checks of rewards and gradients at every training step."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from led_rl.decoding import UserError


class TrainingError(UserError, RuntimeError):
    """A run that cannot go on: a reward is infinite, or a gradient is not finite."""


def check_rewards(rewards: torch.Tensor, names: Sequence[str]) -> None:
    """Raises TrainingError if one of (completions, functions) rewards is infinite; NaN is None, which is left out.

    The mean of its group would be infinite and every advantage of the group NaN, or 0 with a loss of 0. Reward
    functions are checked where they are called (rewards/calling.py); reward models and environments here.
    """
    infinite = torch.isinf(rewards)
    if infinite.any():
        row, column = infinite.nonzero()[0].tolist()
        raise TrainingError(
            f"reward {names[column]!r} gave {rewards[row, column].item()} for completion {row + 1} of {len(rewards)}: "
            "its whole group would learn nothing. Allowed: a finite number, or None to leave a completion out"
        )


def check_gradient(norm: Any, step: int, loss_is_scaled: bool) -> None:
    """Raises TrainingError if a step's gradient norm is no number; scaled losses (fp16) overflow at times.

    Args:
        norm: a number, a tensor of one, or None where the step measured none.
    """
    if norm is None or math.isfinite(float(norm)) or loss_is_scaled:
        return
    raise TrainingError(
        f"the gradient of step {step} is {float(norm)}: the weights are no numbers any more, or overflowed, and "
        "transformers would log a loss of 0 from here on. Look at the weights that the run started from, at "
        "learning_rate and at max_grad_norm; the checkpoints of earlier steps are as they were"
    )
