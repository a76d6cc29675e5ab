from itertools import pairwise

import pytest

from led_rl.toy.countdown import attempts
from led_rl.toy.routes import LONGEST_RESPONSE, build_tokenizer, problems, split_of, traces
from rewards.countdown import countdown


@pytest.fixture(scope="module")
def examples():
    return list(traces(2000, "test"))


def test_the_reward_accepts_a_trace_if_and_only_if_it_is_solved(examples):
    rewards = countdown(
        [trace.response for trace in examples],
        [list(trace.problem.numbers) for trace in examples],
        [trace.problem.target for trace in examples],
    )
    assert rewards == [float(trace.solved) for trace in examples]


def test_most_attempts_follow_the_one_before(examples):
    """Next in the fixed order, which is what makes most tokens follow from what stands before them."""
    follows = total = 0
    for trace in examples:
        order = attempts(trace.problem.numbers)
        places = [order.index(attempt) for attempt in trace.attempts]
        assert len(set(places)) == len(places)
        follows += sum(b == a + 1 for a, b in pairwise(places))
        total += len(places) - 1
    assert 0.6 < follows / total < 0.9


def test_several_routes_lead_to_many_targets():
    several = [
        sum(attempt.value == problem.target for attempt in attempts(problem.numbers)) > 1
        for problem in problems("train")[:500]
    ]
    assert sum(several) / len(several) > 0.3


def test_splits_share_no_multiset_and_the_test_rows_are_many(examples):
    train, test = ({tuple(sorted(p.numbers)) for p in problems(split)} for split in ("train", "test"))
    assert not train & test
    assert {tuple(sorted(trace.problem.numbers)) for trace in examples} <= train
    assert (len(problems("train")), len(problems("test"))) == (5434, 1359)
    assert {split_of(order) for order in ((2, 5, 14), (14, 2, 5))} <= {"train", "test"}


def test_traces_fit_the_tokenizer_and_the_stated_length(examples):
    tokenizer = build_tokenizer()
    texts = [trace.response for trace in examples]
    ids = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(ids) == texts
    assert max(map(len, ids)) == LONGEST_RESPONSE
    assert texts == [trace.response for trace in traces(2000, "test")]
