"""Multiple-choice letters."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import load_reward
from rewards.answer_text.letters import gold_letter, letter_of


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{(C)}", "C"),
        (r"\boxed{\text{C}}", "C"),
        (r"\boxed{\textbf{(C)}}", "C"),
        (r"\boxed{c}", "C"),
        (r"\boxed{C.}", "C"),
        (r"\boxed{C) 42 m}", "C"),
        (r"\boxed{(C) \frac{1}{2}}", "C"),
        (r"\boxed{\text{Option C}}", "C"),
        (r"<think>\boxed{A}</think> \boxed{B}", "B"),
        (r"\boxed{A}, no, \boxed{D}", "D"),
        (r"$\boxed{A}$ and $\boxed{B}$", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{A or B}", None),
        (r"\boxed{}", None),
        (r"\boxed{42}", None),
        (r"\boxed{Z}", None),
        (r"It is false that the answer is \boxed{A}.", None),
        (r"The wrong option is \boxed{A}.", None),
        (r"\boxed{A} is incorrect.", None),
        (r"$\boxed{A}$ cannot be the answer.", None),
        (r"We can rule out \boxed{A}.", None),
        (r"\boxed{A} can be ruled out, leaving \boxed{B}", "B"),
        (r"The answer is not \boxed{A} but \boxed{B}.", "B"),
        (r"Neither \boxed{A} nor \boxed{B}", None),
        (r"Is it \boxed{A}?", None),
        (r"Some algebra gives \boxed{C}.", "C"),
        (r"If friction is neglected, the answer is \boxed{C}.", "C"),
        (r"A is wrong, so the answer is \boxed{C}.", "C"),
        (r"It does not matter. The answer is \boxed{C}", "C"),
        (r"<think>\boxed{A}", None),
        ("The answer is C.", "C"),
        ("The answer is (C)", "C"),
        ("The correct answer is **C**", "C"),
        ("**Answer: C**", "C"),
        ("Answer: (C) because of symmetry", "C"),
        ("ANSWER: C", "C"),
        ("The final answer is $\\text{C}$", "C"),
        ("I would choose option B", "B"),
        ("The answer is A. Wait. The answer is B.", "B"),
        ("The answer is not C.", None),
        ("The answer isn't C.", None),
        ("The answer is a matter of taste", None),
        ("The answer is A matter of taste", None),
        ("C", "C"),
        ("(C)", "C"),
        ("C. 42 m", "C"),
        ("**C**", "C"),
        ("A good question indeed", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_the_chosen_letter(text, letter):
    assert load_reward("choice_letter").chosen(text) == letter


def test_rewards():
    reward = load_reward("choice_letter", letters="ABCD")
    completions = [
        r"\boxed{A}",
        r"\boxed{B}",
        [{"role": "assistant", "content": "Answer: A"}],
        r"\boxed{A}",
        r"\boxed{E}",
    ]
    extra = {}
    golds = ["A", "(A)", r"\text{A}", None, "E"]
    assert reward(completions, answer=golds, log_extra=lambda n, v: extra.update({n: v})) == [1.0, 0.0, 1.0, None, None]
    assert extra["chosen_letter"] == ["A", "B", "A", "A", ""]


def test_boxes_only():
    reward = load_reward("choice_letter", box_only=True)
    assert reward(["The answer is A", r"\boxed{A}"], answer=["A", "A"]) == [0.0, 1.0]


def test_letters_of_golds():
    assert [gold_letter(gold) for gold in ("A", " b ", "(C)", r"\text{(D)}", "E.", "42", "A or B", None, 3, "")] == [
        "A", "B", "C", "D", "E", None, None, None, None, None,
    ]  # fmt: skip
    assert letter_of("x = 5") is None


@pytest.mark.parametrize(
    "name",
    [
        "choice_letter",
        "choice_letter_second",
        "choice_letter_third",
        "choice_letter_fourth",
        "choice_letter_fifth",
        "choice_letter_sixth",
    ],
)
def test_every_case_is_judged_right(name):
    lines = (Path(__file__).parent / "cases" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    cases = [json.loads(line) for line in lines if line]
    reward = load_reward("choice_letter")
    rewards = reward([case["prediction"] for case in cases], answer=[case["gold"] for case in cases])
    wrong = [case for case, value in zip(cases, rewards, strict=True) if value != case["correct"]]  # 1.0 == True
    assert not wrong
    assert len(cases) > 100


HOSTILE = ["(" * 50_000, "A " * 25_000, "the answer is " * 4_000, "A, " * 20_000, "not " * 12_000, "' " * 25_000,
           "\\boxed{" * 8_000, "\\boxed{" * 600 + "A" + "}" * 600, "<answer>" * 6_000, "<answer>\\boxed{" * 300,
           "so it is " * 6_000, "C. " * 20_000, "\n" * 50_000, "A or " * 10_000, "wait " * 10_000]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_end_soon_and_earn_nothing(hostile):
    start = time.process_time()
    assert load_reward("choice_letter").chosen(hostile) is None
    assert load_reward("choice_letter").chosen(hostile + " The answer is C.") in ("C", None)
    assert time.process_time() - start < 2


PIECES = ["A", "B", "(C)", "the answer is ", "not ", "is correct", " or ", ", ", ". ", "\n", "\\boxed{", "}",
          "<answer>", "</answer>", "Therefore ", "option ", "'", "$", "\\text{", "?", "so ", "it is "]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=30))
def test_any_text_gives_one_of_the_letters_or_none(pieces):
    assert load_reward("choice_letter", letters="ABCD").chosen("".join(pieces)) in ("A", "B", "C", "D", None)
