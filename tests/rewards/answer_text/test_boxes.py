"""Which part of a completion is the answer."""

import pytest

from rewards.answer_text.boxes import final_answer, final_boxes
from rewards.answer_text.completions import after_thinking, completion_texts, prompt_opens_thinking
from rewards.grader.judge import grade


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (r"\boxed{42}", ["42"]),
        (r"first \boxed{41}. Wait, no: \boxed{42}", ["42"]),
        (r"\boxed{41} … \boxed{42}", ["42"]),
        (r"\boxed{41}, but then \boxed{42}", ["42"]),
        (r"\boxed{41}. So the answer is \boxed{42}", ["42"]),
        (r"\boxed{1}, \boxed{2}", ["1", "2"]),
        (r"$\boxed{1}$, $\boxed{2}$, and $\boxed{3}$.", ["1", "2", "3"]),
        (r"\boxed{1} and \boxed{2}", ["1", "2"]),
        (r"\boxed{1}\text{ or }\boxed{2}", ["1", "2"]),
        (r"\boxed{9}. The roots are \(\boxed{1}\), \(\boxed{2}\)", ["1", "2"]),
        (r"\boxed   {42}", ["42"]),
        ("\\boxed\n{42}", ["42"]),
        (r"\boxed{\frac{1}{\sqrt{2}}}", [r"\frac{1}{\sqrt{2}}"]),
        (r"\boxed{\{1,2\}}", [r"\{1,2\}"]),
        (r"\boxed{\left\{x : x > \frac{1}{2}\right\}}", [r"\left\{x : x > \frac{1}{2}\right\}"]),
        (r"\fbox{42}", ["42"]),
        (r"\framebox[2cm]{42}", ["42"]),
        (r"\boxed{\boxed{42}}", ["42"]),
        (r"\boxed{x = \boxed{42}}", ["42"]),
        (r"\boxed{\fbox{42}}", ["42"]),
        (r"\boxed 7", ["7"]),
        (r"\boxed42", ["42"]),
        (r"\boxed\pi", [r"\pi"]),
        (r"$\boxed{42$ is it", ["42"]),
        (r"The answer is \boxed{\frac{1}{2}", [r"\frac{1}{2}"]),
        ("\\boxed{42\nand so on", ["42"]),
        (r"\boxed{}", [""]),
        (r"\boxed{41} \boxed{}", [""]),
        (r"\boxedtext{42}", []),
        ("no box at all", []),
    ],
)
def test_final_boxes(text, boxes):
    assert final_boxes(text) == boxes


@pytest.mark.parametrize(
    "text", [r"\boxed{}", r"\boxed{ }", r"\boxed{$$}", r"\boxed{41} and then \boxed{}", "", "42 it is"]
)
def test_no_answer(text):
    assert final_answer(text)[0] is None


def test_a_self_correction_is_the_last_box():
    assert grade(r"so \boxed{41}. Check: no, it is \boxed{42}.", "42").correct
    assert not grade(r"so \boxed{42}. Check: no, it is \boxed{41}.", "42").correct


def test_a_list_of_boxes_is_all_of_them():
    assert grade(r"$\boxed{1}$, $\boxed{2}$", "1, 2").correct
    assert not grade(r"$\boxed{1}$, $\boxed{2}$", "2").correct
    assert not grade(r"$\boxed{1}$, $\boxed{2}$", "1, 2, 3").correct
    assert grade(r"\boxed{42}, \boxed{42}", "42").correct


@pytest.mark.parametrize(
    "box", ["42 or 43", "42, 43", r"42 \text{ or } 24", r"\{42, 43\}", "42;43", "41, 42", r"42 \pm 1"]
)
def test_several_candidates_for_one_value_fail(box):
    assert not grade(f"\\boxed{{{box}}}", "42").correct


@pytest.mark.parametrize("box", ["1", "1, 2", "1, 2, 3, 4", r"\{1, 2\}", "1, 2, 4"])
def test_subsets_and_supersets_fail(box):
    assert not grade(f"\\boxed{{{box}}}", "1, 2, 3").correct


def test_too_many_boxes_are_refused():
    assert final_answer(r"\boxed{42} " * 1_000) == (None, "too many boxes")


@pytest.mark.parametrize(
    ("text", "prefilled", "final"),
    [
        ("<think>a</think>b", False, "b"),
        ("a</think>b", False, "b"),
        ("a</think>b", True, "b"),
        ("<think>a</think>b<think>c</think>d", False, "d"),
        ("<think>a", False, None),
        ("a", False, "a"),
        ("a", True, None),
        ("<think>a</think>b<think>c", False, None),
    ],
)
def test_after_thinking(text, prefilled, final):
    assert after_thinking(text, prefilled) == final


def test_completions_of_every_shape():
    texts = completion_texts(
        [
            "plain",
            [{"role": "assistant", "content": "said"}],
            [
                {"role": "assistant", "content": "a"},
                {"role": "tool", "content": "b"},
                {"role": "assistant", "content": "c"},
            ],
            [{"role": "assistant", "content": None}],
            [{"role": "assistant", "content": [{"type": "text", "text": "part"}]}],
            [{"role": "assistant", "reasoning_content": "thought", "content": "said"}],
            [],
        ]
    )
    assert texts == ["plain", "said", "c", "", "part", "<think>thought</think>said", ""]


def test_prompts_that_open_the_think_part():
    assert prompt_opens_thinking("<|assistant|><think>\n")
    assert not prompt_opens_thinking("<|assistant|>")
    assert not prompt_opens_thinking("<think></think>\n")
    assert not prompt_opens_thinking([{"role": "user", "content": "write <think>"}])
    assert prompt_opens_thinking([{"role": "user", "content": "x"}, {"role": "assistant", "content": "<think>"}])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 42.", "42"),
        ("The final answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("**Answer:** 42", "42"),
        ("Answer: 41\nNo. Answer: 42", "42"),
        ("The answer is therefore 42, because of that.", "42"),
        ("The answer is not 42.", None),
        ("The answer isn't 42", None),
        ("If the answer is 42 we lose", None),
        ("It is not true that the answer is 42.", None),
        ("The answer cannot be 42.", None),
        ("The answer is 41. The answer is not 42.", "41"),
    ],
)
def test_statements_count_only_where_allowed(text, answer):
    assert final_answer(text, "statement")[0] == answer
    assert final_answer(text, "none")[0] is None


def test_formulas_count_only_where_allowed():
    text = "We get $x = 3$ and then $y = 5$."
    assert final_answer(text, "formula")[0] == "y = 5"
    assert final_answer(text, "statement")[0] is None
    assert final_answer("42", "bare")[0] == "42"
    assert final_answer("The answer is 42", "bare")[0] is None
    assert final_answer("I think it may well be some 42", "bare")[0] is None
