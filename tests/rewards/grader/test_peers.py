"""Other graders, re-stated for comparison, do what their harnesses do."""

import json

import pytest
from trl.rewards import accuracy_reward

from rewards.grader import harnesses
from rewards.grader.benchmark import CASES, load_cases
from rewards.grader.peers import PEERS, as_lighteval, as_trl, by_sympy, peer_pool


def test_math_verify_as_trl_is_trls_reward():
    cases = load_cases(CASES)[::90]
    completions = [[{"role": "assistant", "content": case.prediction}] for case in cases]
    rewards = accuracy_reward(completions, [case.gold for case in cases])
    assert len(cases) > 40
    assert [as_trl(case.prediction, case.gold) for case in cases] == [
        None if reward is None else bool(reward) for reward in rewards
    ]


def test_lighteval_boxes_the_gold_and_takes_numbers_without_a_box():
    assert as_lighteval(r"ANSWER: $\frac{1}{2}$", r"\frac12")
    assert as_lighteval("so it is 42", "42")
    assert not as_lighteval("so it is 41", "42")


def test_sympy_alone():
    assert by_sympy(r"\boxed{x^2+2x+1}", "(x+1)^2")
    assert not by_sympy(r"\boxed{3}", "4")
    assert not by_sympy("3", "3")
    assert by_sympy(r"\boxed{3}", r"\frac{") is None


@pytest.mark.parametrize("name", PEERS)
def test_each_is_a_worker(name):
    pool = peer_pool(name)
    jobs = [{"op": "grade", "text": text, "gold": "7"} for text in (r"\boxed{7}", r"\boxed{8}")]
    assert [result["correct"] for result in pool.run(jobs)] == [True, False]
    pool.close()


@pytest.mark.parametrize(
    ("grader", "completion", "gold", "right"),
    [
        (harnesses.gsm8k_strict, "So 3.\n#### 1,000", "1000", True),
        (harnesses.gsm8k_strict, "#### 3\n#### 4", "4", False),  # the first
        (harnesses.gsm8k_strict, "The answer is 3.", "3", False),
        (harnesses.gsm8k_cot_strict, "The answer is 3.", "3", True),
        (harnesses.gsm8k_cot_strict, "The answer is $3.", "3", False),  # its pattern has no dollar
        (harnesses.gsm8k_flexible, "He pays $1,200.00 in 2 days", "2", True),  # the last number
        (harnesses.gsm8k_flexible, "He pays $1,200.", "1200", True),
        (harnesses.gsm8k_flexible, "He pays 12.00", "12", False),
        (harnesses.simple_evals_mgsm, "Answer: 12.00", "12", True),
        (harnesses.simple_evals_mgsm, "Answer: -12", "12", True),  # signs are lost
        (harnesses.simple_evals_math, "Answer: $\\frac{1}{2}$", "0.5", True),
        (
            harnesses.minerva_strings,
            "Final Answer: The final answer is $\\frac12$. I hope it is correct.",
            "\\frac{1}{2}",
            True,
        ),
        (
            harnesses.minerva_sympy,
            "Final Answer: The final answer is $0.5$. I hope it is correct.",
            "\\frac{1}{2}",
            True,
        ),
        (harnesses.minerva_strings, "The answer is 5.", "5", False),
        (harnesses.minerva_math_verify, "It is $x+1$.", "1+x", True),
    ],
)
def test_harnesses(grader, completion, gold, right):
    assert grader(completion, gold) is right


def test_minervas_normal_form():
    assert harnesses.minerva_normal(r"x = 10,\!000 \text{ dollars}") == "10000"
    assert harnesses.minerva_normal(r"$\frac34$ units") == r"\frac{3}{4}"
    assert harnesses.minerva_normal(r"\sqrt2") == r"\sqrt{2}"


@pytest.mark.parametrize("name", harnesses.HARNESSES)
def test_the_unboxed_cases_are_many_and_hold_no_box(name):
    lines = (CASES / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    cases = [json.loads(line) for line in lines if line]
    assert len({case["prediction"] for case in cases}) >= 200
    assert not [case for case in cases if "boxed" in case["prediction"]]
    assert {case["correct"] for case in cases} == {True, False}
