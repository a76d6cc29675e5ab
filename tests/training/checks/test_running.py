"""Rewards and gradients that are no numbers end a run; names that are taken are refused."""

import pytest
import torch

from led_rl.training.checks.running import (
    TrainingError,
    check_gradient,
    check_logged_column,
    check_logged_metric,
    check_rewards,
)
from led_rl.training.progress import describe


def test_an_infinite_reward_is_an_error_and_none_is_not():
    check_rewards(torch.tensor([[1.0, float("nan")], [0.0, 2.0]]), ["a", "b"])
    with pytest.raises(TrainingError, match="reward 'b' gave inf for completion 2 of 2"):
        check_rewards(torch.tensor([[1.0, 0.0], [0.0, float("inf")]]), ["a", "b"])


def test_a_gradient_that_is_no_number_is_an_error():
    check_gradient({"loss": 0.0}, 1, False)
    check_gradient({"grad_norm": 0.5}, 1, False)
    check_gradient({"grad_norm": float("inf")}, 1, True)  # a scaled loss overflowed: the step was skipped
    for norm in (float("nan"), torch.tensor(float("inf"))):
        with pytest.raises(TrainingError, match="the gradient of step 7 is"):
            check_gradient({"grad_norm": norm}, 7, False)


def test_names_of_the_run_s_own_columns_and_metrics_are_taken():
    for column in ("prompt", "completion", "advantage", "step", "math_answer"):
        with pytest.raises(TrainingError, match=f"'{column}'"):
            check_logged_column(column, ["math_answer"])
    check_logged_column("extracted", ["math_answer"])
    for metric in ("loss", "reward", "kl", "grad_norm", "rewards/x/mean", "led/depth_0", "time/rollout"):
        with pytest.raises(TrainingError, match=f"'{metric}'"):
            check_logged_metric(metric)
    for metric in ("accuracy", "format/boxed", "ledger"):
        check_logged_metric(metric)


def test_a_step_without_any_reward_has_a_progress_line():
    assert describe(3, 9, {"reward": None, "rollout/total_length": 4.0}) == "step 3/9 | reward none | tokens 4"
