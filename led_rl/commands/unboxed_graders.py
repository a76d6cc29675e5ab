"""The agreement of graders with a careful reader on completions without a box: `led-rl benchmark-grader --unboxed`."""

from collections.abc import Callable
from pathlib import Path

from led_rl.terminal.tables import text_table
from rewards.grader.benchmark import Case, load_cases, wilson
from rewards.grader.harnesses import HARNESSES
from rewards.grader.judge import grade

TITLES = {"unboxed_gsm8k": "GSM8K-style", "unboxed_math": "MATH-style"}


def agreement(folder: Path) -> str:
    """A table for each of the case files: agreement with its verdicts, false positives and false negatives."""
    parts = []
    for name, harnesses in HARNESSES.items():
        cases = load_cases(folder / f"{name}.jsonl")
        graders: dict[str, Callable[[str, str], bool]] = {
            **{f"math_answer, unboxed: {how}": _math_answer(how) for how in ("statement", "formula", "bare")},
            **harnesses,
        }
        lines = [_line(title, grader, cases) for title, grader in graders.items()]
        head = ["grader", "agreement", "95 % interval", "false positives", "false negatives"]
        right = sum(case.correct is True for case in cases)
        title = f"{TITLES[name]}: {len(cases)} completions without a box, {right} of them right"
        parts.append(f"{title}\n{text_table(head, lines)}")
    return "\n\n".join(parts)


def _math_answer(how: str) -> Callable[[str, str], bool]:
    return lambda completion, gold: grade(completion, gold, how).correct is True


def _line(title: str, grader: Callable[[str, str], bool], cases: list[Case]) -> list[str]:
    verdicts = [grader(case.prediction, case.gold) for case in cases]
    positives = sum(verdict and not case.correct for verdict, case in zip(verdicts, cases, strict=True))
    negatives = sum(not verdict and case.correct is True for verdict, case in zip(verdicts, cases, strict=True))
    agreed = len(cases) - positives - negatives
    low, high = wilson(agreed, len(cases))
    return [title, f"{agreed / len(cases):.1%}", f"[{low:.1%}, {high:.1%}]", str(positives), str(negatives)]
