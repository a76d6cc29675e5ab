import time

import pytest

from rewards.countdown import boxed_answer, countdown

NUMBERS, TARGET = [3, 5, 7], 22


def reward(answer, numbers=NUMBERS, target=TARGET):
    """The reward of a completion that closes its thinking and boxes `answer`."""
    return countdown([f"5 * 3 = 15 </think> \\boxed{{ {answer} }}"], [numbers], [target])[0]


@pytest.mark.parametrize("answer", ["( 5 * 3 ) + 7", "(5*3)+7", "7+5*3", " 7 +\n(3 * 5)", "((7))+((3)*5)"])
def test_right_in_any_spelling(answer):
    assert reward(answer) == 1.0


@pytest.mark.parametrize(
    ("answer", "numbers", "target"),
    [
        ("( 5 * 3 ) + 8", NUMBERS, 23),  # a number that was not given
        ("22", NUMBERS, 22),  # numbers left out
        ("5 * 3", NUMBERS, 15),
        ("( 5 * 3 ) + 7 + 3 - 3", NUMBERS, 22),  # a number used twice
        ("5 * 4", [4, 5, 5], 20),  # one of two equal numbers left out
        ("( 5 + 3 ) + 7", NUMBERS, 22),  # the right numbers, the wrong value
        ("7 - 3 - 5 ", NUMBERS, 1),  # the sign counts
        ("( 5 * 3 ) + 7 = 22", NUMBERS, 22),
        ("-3 + 5 + 7", NUMBERS, 9),  # no signs, only - between operands
        ("6 / 3", [3, 6], 2),
        ("2 ** 3", [2, 3], 8),
        ("7 // 3", [3, 7], 2),
        ("35 - 7", NUMBERS, 28),  # digits run together
        ("3 5 + 7", NUMBERS, 22),
        ("(5 + 3)(7)", NUMBERS, 56),
        ("03 + 5 + 7", NUMBERS, 15),
        ("3.0 + 5 + 7", NUMBERS, 15),
        ("", NUMBERS, 22),
    ],
)
def test_wrong(answer, numbers, target):
    assert reward(answer, numbers, target) == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9**9",
        "9*" * 100_000 + "9",
        "(" * 100_000 + "5" + ")" * 100_000,
        "(" * 49 + "5" + ")" * 49,
        "9" * 1_000_000,
        "-" * 90 + "5",
        "５ * ３ + ７",  # full-width digits
        "٥ * ٣ + ٧",  # Arabic-Indic digits
        "5 * 3 + 7\x00",
        "5\u00a0* 3 + 7",
        "__import__('os').system('true') or 22",
        "(5 * 3) + 7 if 1 else 0",
        "[5 * 3 + 7][0]",
        "\\boxed{" * 50_000,
        "{" * 100_000,
    ],
)
def test_hostile_answers_are_wrong_and_quick(answer):
    started = time.perf_counter()
    assert reward(answer) == 0.0
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{5*3+7}",  # never closes its thinking
        "\\boxed{5*3+7} </think> 5*3+7",  # the box is among the thoughts
        "</think> \\boxed{5*3+7",  # the box is not closed
        "</think> \\boxed{5*3+7} </think> it is 22",  # only what follows the last </think> counts
        "</think> \\boxed{5*3+7} and \\boxed{5+3+7}",  # the last box counts
        "</think> <think> \\boxed{5*3+7}",  # thinks again
        "</think> boxed{5*3+7}",
        "",
    ],
)
def test_no_answer_outside_the_thoughts(text):
    assert countdown([text], [NUMBERS], [TARGET]) == [0.0]


def test_the_last_answer_after_the_last_thoughts_counts():
    text = "\\boxed{1} </think> \\boxed{2} </think> \\boxed{5+3+7} no, \\boxed{5*3+7} ."
    assert countdown([text], [NUMBERS], [TARGET]) == [1.0]


def test_boxes_are_matched_by_their_braces():
    assert boxed_answer("\\boxed{a {b {c} d} e} f}") == "a {b {c} d} e"
    assert boxed_answer("\\boxed{ \\boxed{ 5 } }") == "5"
    assert boxed_answer("\\boxed{ 5") is None
    assert boxed_answer("} 5 {") is None


def test_conversations_and_strings_are_judged_alike():
    text = "</think> \\boxed{5*3+7}"
    conversation = [{"role": "assistant", "content": text}]
    assert countdown([text, conversation, ""], [NUMBERS] * 3, [TARGET] * 3) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("numbers", "target"),
    [(None, 22), (NUMBERS, None), ([], 22), (["3", 5, 7], 22), (NUMBERS, "22"), ("357", 22), (NUMBERS, True)],
)
def test_rows_without_usable_numbers_have_no_reward(numbers, target):
    completions = ["</think> \\boxed{5*3+7}"] * 2
    assert countdown(completions, [numbers, NUMBERS], [target, TARGET]) == [None, 1.0]


def test_columns_of_unequal_length_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        countdown(["</think>"] * 2, [NUMBERS], [TARGET])


def test_extracted_answers_are_logged():
    logged = {}
    columns = {"prompts": ["p"] * 2, "log_extra": logged.__setitem__}
    countdown(["</think> \\boxed{ 5 * 3 + 7 }", "lost"], [NUMBERS] * 2, [TARGET] * 2, **columns)
    assert logged == {"extracted": ["5 * 3 + 7", ""]}
