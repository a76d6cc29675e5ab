"""Every case file: answers that are right and answers that are wrong, written from the mathematics."""

import json
from collections import Counter
from pathlib import Path

import pytest

from rewards import load_reward
from rewards.grader.judge import grade

CASE_FILES = (Path(__file__).parents[1] / "cases").glob("*.jsonl")
FILES = sorted(file for file in CASE_FILES if not file.stem.startswith(("choice_letter", "unboxed_")))
CASES = [json.loads(line) for file in FILES for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_case_files_are_broad():
    kinds = Counter(case["kind"] for case in CASES)
    assert len(CASES) > 2_500
    assert len(kinds) >= 30
    assert min(sum(case["correct"] is side for case in CASES) for side in (True, False)) > 1_000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_case_is_judged_right(file):
    wrong = []
    for line in file.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        verdict = grade(case["prediction"], case["gold"])
        if verdict.correct is not case["correct"]:
            wrong.append((case, verdict.reason))
    assert not wrong


def test_the_reward_gives_the_same_verdicts_in_one_batch():
    sample = CASES[::7]
    reward = load_reward("math_answer", workers=1)
    rewards = reward([case["prediction"] for case in sample], answer=[case["gold"] for case in sample])
    assert rewards == [float(case["correct"]) for case in sample]


@pytest.mark.parametrize("file", sorted((FILES[0].parent / "unboxed").glob("*.jsonl")), ids=lambda file: file.stem)
def test_every_case_without_a_box_is_judged_right(file):
    """`unboxed` says what stood in for the box: bare, statement or formula."""
    wrong = []
    for line in file.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        verdict = grade(case["prediction"], case["gold"], case["unboxed"])
        if verdict.correct is not case["correct"]:
            wrong.append((case, verdict))
    assert not wrong
