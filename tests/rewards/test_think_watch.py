"""A batch in which no completion closes its think part is not silent."""

import logging

import pytest

from rewards import load_reward

OPTIONS = {"math_answer": {"workers": 1}}
OPEN, CLOSED = "I think \\boxed{A}", "I think</think>\\boxed{A}"


@pytest.mark.parametrize("name", ["math_answer", "choice_letter", "think_format"])
def test_one_warning_and_a_metric(name, caplog):
    metrics = []
    reward = load_reward(name, prefilled_think=True, **OPTIONS.get(name, {}))

    def graded(*texts):
        return reward(list(texts), answer=["A"] * len(texts), log_metric=lambda *metric: metrics.append(metric))

    with caplog.at_level(logging.WARNING):
        assert graded(CLOSED, OPEN) == [1.0, 0.0]
        assert not caplog.records
        assert graded(OPEN, OPEN) == graded(OPEN, OPEN) == [0.0, 0.0]
    shares = [value for metric, value in metrics if metric == f"{name}/closed_think_part"]
    assert shares == [0.5, 0.0, 0.0]
    (warning,) = caplog.records
    assert f"{name}: none of the 2 completions" in warning.getMessage()


def test_models_that_do_not_think_are_not_warned_of(caplog):
    metrics = []
    for name in ("math_answer", "choice_letter", "think_format"):
        reward = load_reward(name, **OPTIONS.get(name, {}))
        reward(["\\boxed{A}"] * 2, answer=["A"] * 2, log_metric=lambda *metric: metrics.append(metric[0]))
    assert not caplog.records
    assert not [name for name in metrics if "think" in name]


def test_prompts_that_open_the_think_part_count(caplog):
    reward = load_reward("think_format")
    assert reward([OPEN, OPEN], prompts=["What? <think>\n"] * 2) == [0.0, 0.0]
    assert len(caplog.records) == 1
