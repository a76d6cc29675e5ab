"""Rewards of a user's own: asynchronous, batched, failing, and returning what is no reward."""

import asyncio
import functools
import math
import pickle

import numpy as np
import pytest
import torch
from trl.trainer.utils import get_callable_name, is_async_callable

from rewards import RewardError, call_reward, checked_rewards, load_reward
from rewards.grader.workers.process import PoolError

TEXTS = ["a", "bb", "ccc"]


def lengths(completions, scale=1.0, **columns):
    return [scale * len(text) for text in completions]


async def slow_lengths(completions, **columns):
    await asyncio.sleep(0)
    return [len(text) for text in completions]


class AsyncLengths:
    async def __call__(self, completions, **columns):
        return await slow_lengths(completions)


def raises_at_bb(completions, answer, **columns):
    return [1 / (len(text) - 2) for text in completions]


@pytest.mark.parametrize("reward", [lengths, functools.partial(lengths, scale=1), slow_lengths, AsyncLengths()])
def test_rewards_of_every_form_are_called(reward):
    assert call_reward(reward, TEXTS, prompts=["p"] * 3) == [1.0, 2.0, 3.0]
    checked = checked_rewards(reward)
    assert checked.__name__ in ("lengths", "slow_lengths", "AsyncLengths")
    assert get_callable_name(checked) == checked.__name__
    returned = checked(completions=TEXTS, prompts=["p"] * 3)
    if is_async_callable(checked):  # TRL awaits it beside the others
        returned = asyncio.run(returned)
    else:
        assert not isinstance(reward, AsyncLengths)
        assert pickle.loads(pickle.dumps(checked))(completions=["abc"]) == [3.0]
    assert returned == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "values", [np.array([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, 2.0]), (1, False, 2), [np.float32(1), 0, np.int64(2)]]
)
def test_arrays_and_tensors_are_rewards(values):
    assert call_reward(lambda completions: values, TEXTS) == [1.0, 0.0, 2.0]


def test_none_and_nan_are_nothing_to_judge():
    assert call_reward(lambda completions: [None, math.nan, 1], TEXTS) == [None, None, 1.0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], r"reward 'mine' returned 2 values for 3 completions"),
        ([1.0, "1.0", 2.0], r"reward 'mine' returned '1.0' for row 2; allowed: a finite number, or None"),
        ([1.0, 2.0, math.inf], r"'mine' returned inf for row 3"),
        ([1.0, [2.0], 2.0], r"'mine' returned \[2.0\] for row 2"),
        ([1.0, 2j, 2.0], r"'mine' returned 2j for row 2"),
        ([1.0, 2.0, torch.zeros(2)], r"'mine' returned tensor.* for row 3"),
        (1.0, r"'mine' returned 1.0 \(float\); allowed: a list"),
        (None, r"'mine' returned None"),
        ("abc", r"'mine' returned 'abc' \(str\)"),
        ({"a": 1}, r"'mine' returned {'a': 1} \(dict\)"),
    ],
)
def test_what_is_no_reward_is_named(returned, message):
    def mine(completions, **columns):
        return returned

    async def later(completions, **columns):
        return returned

    later.__name__ = "mine"
    with pytest.raises(RewardError, match=message):
        call_reward(mine, TEXTS)
    with pytest.raises(RewardError, match=message):
        checked_rewards(mine)(completions=TEXTS)
    with pytest.raises(RewardError, match=message):
        asyncio.run(checked_rewards(later)(completions=TEXTS))


def test_a_reward_that_raises_is_named_with_its_row():
    message = (
        r"reward 'raises_at_bb' failed for row 2: ZeroDivisionError: .* \(test_calling.py, line \d+\); columns: answer$"
    )
    with pytest.raises(RewardError, match=message):
        call_reward(raises_at_bb, TEXTS, answer=list("xyz"), log_metric=None)
    with pytest.raises(RewardError, match="failed for problem 'p2': ZeroDivisionError"):
        call_reward(raises_at_bb, TEXTS, row_names=["problem 'p1'", "problem 'p2'", "problem 'p3'"], answer=list("xyz"))
    with pytest.raises(RewardError, match=r"'raises_at_bb' failed.*missing 1 required.*'answer'; columns: prompts"):
        call_reward(raises_at_bb, TEXTS, prompts=TEXTS)


def test_a_pool_that_cannot_start_is_no_rows_fault():
    def mine(completions, **columns):
        raise PoolError("no workers")

    with pytest.raises(PoolError, match="no workers"):
        checked_rewards(mine)(completions=TEXTS)


def test_a_failing_asynchronous_reward_is_named():
    async def judge(completions, **columns):
        raise ConnectionError("no answer")

    with pytest.raises(RewardError, match="reward 'judge' failed: ConnectionError: no answer"):
        call_reward(judge, TEXTS)
    with pytest.raises(RewardError, match="reward 'judge' failed: ConnectionError: no answer"):
        asyncio.run(checked_rewards(judge)(completions=TEXTS))


@pytest.mark.parametrize("name", ["loss", "reward", "rewards/math_answer/mean", "led/depth_3", "eval_loss"])
def test_a_metric_cannot_replace_the_trainers(name):
    def mine(completions, log_metric, **columns):
        log_metric(name, 0.0)
        return [0.0] * 3

    with pytest.raises(RewardError, match=f"reward 'mine' logs a metric '{name}'"):
        checked_rewards([mine])[0](completions=TEXTS, log_metric=lambda name, value: None)


def test_columns_of_the_table_are_safe():
    logged = {}

    def mine(completions, log_extra, log_metric, **columns):
        log_extra("extracted", ["mine"] * 3)
        log_metric("mine/share", torch.tensor(0.5))
        return [0.0] * 3

    def other(completions, log_extra, **columns):
        log_extra("extracted", ["other"] * 3)
        return [0.0] * 3

    metrics = {}
    for reward in checked_rewards([mine, other]) * 2:
        reward(
            completions=TEXTS,
            log_extra=lambda column, values: logged.setdefault(column, []).extend(values),
            log_metric=metrics.__setitem__,
        )
    assert logged == {"extracted": ["mine"] * 6, "other.extracted": ["other"] * 6}
    assert metrics == {"mine/share": 0.5}

    def bad(completions, log_extra, column, values, **columns):
        log_extra(column, values)
        return [0.0] * 3

    for column, values, message in (
        ("completion", ["x"] * 3, "'bad' logs a column 'completion', which the table"),
        ("note", ["x"] * 2, "'bad' logs column 'note' without one value for each of the 3"),
        ("note", "xyz", "without one value"),
    ):
        with pytest.raises(RewardError, match=message):
            checked_rewards(bad)(completions=TEXTS, log_extra=print, column=column, values=values)


def test_reward_models_and_hub_ids_stay_what_they_are():
    model = torch.nn.Linear(1, 1)
    rewards = checked_rewards([model, "some/model", lengths])
    assert rewards[:2] == [model, "some/model"]
    assert checked_rewards(rewards)[2] is rewards[2]
    assert checked_rewards(None) is None


def test_partials_take_options(tmp_path, monkeypatch):
    (tmp_path / "partial_rewards.py").write_text(
        "import functools\n"
        "def scaled(completions, scale=1, offset=0, **columns):\n"
        "    return [scale * len(text) + offset for text in completions]\n"
        "twice = functools.partial(scaled, scale=2)\n"
        "async def later(completions, factor=1, **columns):\n"
        "    return [factor * len(text) for text in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    reward = load_reward("partial_rewards:twice", offset=1)
    assert reward.__name__ == "scaled"
    assert reward(TEXTS) == [3.0, 5.0, 7.0]
    assert pickle.loads(pickle.dumps(reward))(["abcd"]) == [9.0]
    assert load_reward("partial_rewards:twice").__name__ == "scaled"
    assert asyncio.run(load_reward("partial_rewards:later", factor=3)(TEXTS)) == [3.0, 6.0, 9.0]
    with pytest.raises(RewardError, match="no option 'size'"):
        load_reward("partial_rewards:twice", size=1)
    with pytest.raises(RewardError):
        load_reward("builtins:max", key=1)
