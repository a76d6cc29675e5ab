import operator
from collections import Counter
from itertools import combinations_with_replacement, permutations

import pytest
from transformers import AutoTokenizer

from led_rl.thinking import ThinkMarkers
from led_rl.toy.countdown import (
    GIVE_UP_RATE,
    LONGEST_RESPONSE,
    Problem,
    attempts,
    build_tokenizer,
    problems,
    split_of,
    traces,
)
from rewards.countdown import countdown

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@pytest.fixture(scope="module")
def examples():
    return list(traces(3000, "test"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The tokenizer after a save and a load."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_the_arithmetic_of_every_attempt_is_right():
    for numbers in combinations_with_replacement(range(1, 10), 3):
        for attempt in attempts(numbers):
            for step in (attempt.first, attempt.second):
                assert step.left >= step.right
                assert step.result == OPERATORS[step.operator](step.left, step.right)
                assert 0 <= step.result < 100
            used = Counter([*attempt.first[:3:2], *attempt.second[:3:2]]) - Counter([attempt.first.result])
            assert used == Counter(numbers)


def test_every_attempt_is_the_value_of_its_expression():
    for numbers in combinations_with_replacement(range(1, 10), 3):
        texts = [f"</think> \\boxed{{ {attempt.expression} }}" for attempt in attempts(numbers)]
        values = [attempt.value for attempt in attempts(numbers)]
        assert set(countdown(texts, [list(numbers)] * len(texts), values)) == {1.0}


def test_the_reward_accepts_a_trace_if_and_only_if_it_is_solved(examples):
    rewards = countdown(
        [trace.response for trace in examples],
        [list(trace.problem.numbers) for trace in examples],
        [trace.problem.target for trace in examples],
    )
    assert rewards == [float(trace.solved) for trace in examples]


def test_a_trace_says_yes_only_to_the_attempt_that_ends_it(examples):
    for trace in examples:
        verdicts = [word for word in trace.response.split() if word in ("yes", "no")]
        assert verdicts == ["no"] * (len(trace.attempts) - 1) + ["yes" if trace.solved else "no"]
        assert len(set(trace.attempts)) == len(trace.attempts)


def test_the_demonstrator_gives_up_as_often_as_it_should(examples):
    given_up = sum(not trace.solved for trace in examples) / len(examples)
    standard_error = (GIVE_UP_RATE * (1 - GIVE_UP_RATE) / len(examples)) ** 0.5
    assert abs(given_up - GIVE_UP_RATE) < 4 * standard_error


def test_splits_share_no_multiset_and_traces_show_no_test_problem(examples):
    train, test = ({tuple(sorted(p.numbers)) for p in problems(split)} for split in ("train", "test"))
    assert train
    assert test
    assert not train & test
    assert {tuple(sorted(trace.problem.numbers)) for trace in examples} <= train


def test_the_split_ignores_the_order_of_the_numbers():
    assert len({split_of(order) for order in permutations((2, 5, 9))}) == 1


def test_the_split_is_the_same_in_every_process():
    """Fixed values: a change of the split silently puts problems that were trained on into the test set."""
    multisets = ((1, 1, 1), (1, 1, 3), (2, 5, 7), (2, 5, 9), (6, 8, 8), (9, 9, 9))
    assert [split_of(numbers) for numbers in multisets] == ["test", "train"] * 3
    assert (len(problems("train")), len(problems("test"))) == (1571, 293)


def test_no_problem_appears_twice_and_each_can_be_solved():
    for split in ("train", "test"):
        assert len({(tuple(sorted(p.numbers)), p.target) for p in problems(split)}) == len(problems(split))
        for problem in problems(split):
            assert problem.target > 0
            values = {attempt.value for attempt in attempts(problem.numbers)}
            assert problem.target in values
            assert values - {problem.target}  # something to fail at


def test_traces_are_a_function_of_their_seed():
    assert list(traces(50, "a")) == list(traces(50, "a"))
    assert list(traces(50, "a")) != list(traces(50, "b"))


def test_traces_survive_the_tokenizer(tokenizer, examples):
    texts = [trace.response for trace in examples]
    ids = tokenizer(texts)["input_ids"]
    assert tokenizer.batch_decode(ids) == texts
    assert tokenizer(tokenizer.batch_decode(ids))["input_ids"] == ids
    assert (
        tokenizer([text.replace(" ", "") for text in ("\\boxed{ ( 3 + 5 ) * 7 }", "5 - 3 = 2 ; </think>")])["input_ids"]
        == tokenizer(["\\boxed{ ( 3 + 5 ) * 7 }", "5 - 3 = 2 ; </think>"])["input_ids"]
    )
    assert max(map(len, ids)) == LONGEST_RESPONSE
    assert 11 + LONGEST_RESPONSE <= 131


def test_what_rewards_read_survives_decoding_without_special_tokens(tokenizer, examples):
    for trace in examples[:100]:
        text = tokenizer.decode(tokenizer("<think> " + trace.response)["input_ids"], skip_special_tokens=True)
        assert text == "<think> " + trace.response.removesuffix(" <|im_end|>")


def test_every_integer_and_marker_is_one_token(tokenizer):
    for token in [*map(str, range(100)), "<think>", "</think>", "\\boxed{", "<|im_end|>", "<pad>"]:
        assert tokenizer(token)["input_ids"] == [tokenizer.get_vocab()[token]]
    assert len(tokenizer) == 119
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<pad>")
    assert ThinkMarkers.from_tokenizer(tokenizer).start == ((tokenizer.get_vocab()["<think>"],),)


def test_prompts_end_in_an_open_think_part(tokenizer):
    messages = Problem((3, 5, 7), 22).messages
    assert messages == [{"role": "user", "content": "3 5 7 make 22"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|im_start|>user 3 5 7 make 22<|im_end|><|im_start|>assistant <think>"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[-1] == "<think>"
    assert len(ids) == 11
    assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids


def test_text_outside_the_vocabulary_is_an_error(tokenizer):
    with pytest.raises(Exception, match="vocabulary"):
        tokenizer("what is love")
