"""Rewards and gradients that are no numbers end a run."""

import pytest
import torch

from led_rl.training.checks.running import TrainingError, check_gradient, check_rewards
from led_rl.training.progress import describe


def test_an_infinite_reward_is_an_error_and_none_is_not():
    check_rewards(torch.tensor([[1.0, float("nan")], [0.0, 2.0]]), ["a", "b"])
    with pytest.raises(TrainingError, match="reward 'b' gave inf for completion 2 of 2"):
        check_rewards(torch.tensor([[1.0, 0.0], [0.0, float("inf")]]), ["a", "b"])


def test_a_gradient_that_is_no_number_is_an_error():
    check_gradient(None, 1, False)
    check_gradient(torch.tensor(0.5), 1, False)
    check_gradient(float("inf"), 1, True)  # a scaled loss overflowed: the step was skipped
    for norm in (float("nan"), torch.tensor(float("inf"))):
        with pytest.raises(TrainingError, match="the gradient of step 7 is"):
            check_gradient(norm, 7, False)


def test_a_step_without_any_reward_has_a_progress_line():
    assert describe(3, 9, {"reward": None, "rollout/total_length": 4.0}) == "step 3/9 | reward none | tokens 4"
