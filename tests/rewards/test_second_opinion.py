"""math-verify as a second opinion: logged, never rewarded."""

import logging
import pickle

import pytest

from rewards import RewardError, load_reward


def test_disagreements_are_logged_and_rewards_stay_the_same(caplog):
    texts = [
        r"\boxed{\frac{2}{4}}",
        r"\boxed{41}, or \boxed{42}",
        "<think>\\boxed{1}",
        r"\boxed{1}",
        r"\boxed{0.33}",
        "1",
    ]
    golds = [r"\frac{1}{2}", "42", "1", None, r"\frac{1}{3}", "1"]
    metrics, extra = {}, {}
    columns = {"answer": golds, "log_metric": metrics.__setitem__, "log_extra": extra.__setitem__}
    alone = load_reward("math_answer", workers=1)(texts, answer=golds)
    reward = load_reward("math_answer", workers=1, second_opinion="math_verify")
    with caplog.at_level(logging.INFO, "rewards.second_opinion"):
        assert reward(texts, **columns) == alone
    said = extra["second_opinion"]
    assert len(said) == len(texts)
    assert said[0] == said[2] == said[3] == ""
    differing = sum(each in ("right", "wrong") for each in said)
    assert metrics["math_answer/second_opinion_disagreement"] == pytest.approx(differing / 4)  # judged by both
    assert len([record for record in caplog.records if "math_verify" in record.getMessage()]) == min(3, differing)


def test_a_batch_without_anything_to_judge_is_no_error():
    reward = load_reward("math_answer", workers=1, second_opinion="math_verify")
    assert reward(["x"], answer=[None], log_metric=lambda *metric: None) == [None]


def test_it_is_picklable_and_checked():
    reward = load_reward("math_answer", workers=1, second_opinion="math_verify")
    assert pickle.loads(pickle.dumps(reward))([r"\boxed{3}"], answer=["3"]) == [1.0]
    with pytest.raises(RewardError, match="second_opinion must be one of math_verify, got 'sympy'"):
        load_reward("math_answer", second_opinion="sympy")
