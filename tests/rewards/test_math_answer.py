"""The math_answer reward as a trainer calls it."""

import pickle
import subprocess
import sys
import threading

import pytest

import rewards.math_answer
from rewards import RewardError, load_reward


@pytest.fixture(scope="module")
def reward():
    return load_reward("math_answer", workers=1)


def say(text):
    return [{"role": "assistant", "content": text}]


def test_plain_and_conversational_completions(reward):
    assert reward([r"\boxed{1/2}", say(r"\boxed{0.5}"), say(r"\boxed{2}")], answer=[r"\frac12"] * 3) == [1.0, 1.0, 0.0]


def test_only_the_text_after_the_thinking_counts(reward):
    completions = [
        r"<think>\boxed{41}</think> \boxed{42}",
        r"<think>\boxed{42}</think> \boxed{41}",
        r"<think>\boxed{42}",
        r"<think>so \boxed{42}</think> done",
        r"thought </think> \boxed{42}",
        r"<think>a</think> \boxed{42} <think> hm",
    ]
    assert reward(completions, answer=["42"] * 6) == [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def test_a_template_that_opens_the_thinking(reward):
    assert reward([r"\boxed{42}"], answer=["42"]) == [1.0]
    assert load_reward("math_answer", workers=1, prefilled_think=True)([r"\boxed{42}"], answer=["42"]) == [0.0]
    assert reward([r"\boxed{42}"], answer=["42"], prompts=["user: 6*7?\nassistant: <think>\n"]) == [0.0]
    assert reward([r"a</think>\boxed{42}"], answer=["42"], prompts=["<think>"]) == [1.0]


def test_no_answer_earns_nothing(reward):
    completions = ["", r"\boxed{}", "42", "The answer is 42.", "The answer is not 42.", r"\boxed{ }"]
    assert reward(completions, answer=["42"] * 6) == [0.0] * 6


def test_statements_where_the_recipe_allows_them():
    lenient = load_reward("math_answer", workers=1, unboxed="statement")
    completions = ["The answer is 42.", "The answer is not 42.", "Well, $42$.", r"The answer is 42. \boxed{41}"]
    assert lenient(completions, answer=["42"] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert load_reward("math_answer", workers=1, unboxed="formula")(["Well, $x=42$."], answer=["42"]) == [1.0]


UNUSABLE = [None, "", "  ", "None", "nan", float("nan"), float("inf"), r"\frac{1}{", r"\boxed{}", "$$", [1], True]


@pytest.mark.parametrize("gold", UNUSABLE)
def test_an_unusable_gold_gives_none_whatever_the_completion(reward, gold):
    assert reward([r"\boxed{1}", "None", "<think>", f"\\boxed{{{gold}}}"], answer=[gold] * 4) == [None] * 4


def test_golds_that_are_numbers(reward):
    assert reward([r"\boxed{42}", r"\boxed{0.5}"], answer=[42, 0.5]) == [1.0, 1.0]


def test_the_gold_column_can_be_chosen():
    reward = load_reward("math_answer", workers=1, gold_column="solution")
    assert reward([r"\boxed{7}"], solution=[r"Since ... we get $\boxed{7}$"], answer=["8"]) == [1.0]
    with pytest.raises(KeyError, match="solution"):
        reward([r"\boxed{7}"], answer=["7"])


def test_what_is_logged(reward):
    extra, metrics = {}, {}
    reward(
        [r"\boxed{1/2}", r"\boxed{9^{9^{9^9}}}", "nothing", r"\boxed{1}"],
        answer=["0.5", "1", "1", "None"],
        log_extra=lambda name, values: extra.update({name: values}),
        log_metric=lambda name, value: metrics.update({name: value}),
    )
    assert extra["extracted"] == ["1/2", "9^{9^{9^9}}", "", ""]
    assert extra["verdict"][0] == "equal"
    assert "too large" in extra["verdict"][1]
    assert extra["verdict"][2:] == ["no box", "unusable gold: is 'none'"]
    assert extra["gold"] == ["0.5", "1", "1", "None"]
    assert metrics == {"math_answer/lost_to_limits": 0.0, "math_answer/unusable_golds": 1.0}


def test_an_answer_that_breaks_its_limits_costs_itself_only():
    reward = load_reward("math_answer", workers=1, time_limit=0.3)
    slow = r"\int_0^1 \frac{x^{50} \sin(x^{x^{x}})}{\ln(1 + x^{\sqrt{x}})} \, dx"
    extra = {}
    rewards = reward(
        [r"\boxed{1}", f"\\boxed{{{slow}}}", r"\boxed{1}"],
        answer=["1", r"\int_0^1 e^{-x^x} dx", "1"],
        log_extra=lambda name, values: extra.update({name: values}),
    )
    assert rewards[::2] == [1.0, 1.0]
    assert not rewards[1]


def test_it_works_from_other_threads(reward):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(reward([r"\boxed{1/2}"] * 20, answer=["0.5"] * 20)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [[1.0] * 20] * 4


def test_it_can_be_pickled(reward):
    again = pickle.loads(pickle.dumps(reward))
    assert again.__name__ == "math_answer"
    assert again([r"\boxed{1}"], answer=["1"]) == [1.0]


def test_empty_batches(reward):
    assert reward([], answer=[]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unboxed": "maybe"}, "unboxed must be one of none, statement, formula, bare"),
        ({"workers": 0}, "workers must be"),
        ({"time_limit": 0}, "time_limit must be"),
        ({"memory_limit_mb": 1}, "memory_limit_mb must be"),
        ({"gold": "x"}, "no option 'gold'; its options: gold_column"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(RewardError, match=message):
        load_reward("math_answer", **options)


def test_importing_rewards_is_light():
    program = (
        "import sys, rewards; rewards.load_reward('think_format')\n"
        "heavy = {'sympy', 'mpmath', 'math_verify', 'torch', 'trl', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_no_module_shadows_another():
    from importlib.metadata import packages_distributions
    from pathlib import Path

    taken = set(sys.stdlib_module_names) | set(packages_distributions())
    own = {path.stem for path in Path(rewards.__file__).parent.rglob("*.py")} - {"__init__"}
    assert not own & taken


def test_rewards_stands_alone():
    from pathlib import Path

    for path in Path(rewards.__file__).parent.rglob("*.py"):
        assert "led_rl" not in [
            line.split()[1].split(".")[0]
            for line in path.read_text().splitlines()
            if line.lstrip().startswith(("import ", "from "))
        ]
