"""Whether a text's final answer equals a gold: extraction, reading, comparison. Runs inside a worker process."""

from collections.abc import Callable
from dataclasses import dataclass

from rewards.extraction import final_answer


@dataclass(frozen=True)
class Verdict:
    """`correct` is None when the gold is unusable; `extracted` is the answer as written, None if there is none."""

    correct: bool | None
    extracted: str | None
    reason: str


before_import: Callable[[float], None] = lambda seconds: None  # noqa: E731


def gold_problem(gold: str) -> str | None:
    return None if gold.strip() and gold.strip().lower() != "none" else "is empty"


def grade(text: str | None, gold: str, unboxed: str = "none") -> Verdict:
    if problem := gold_problem(gold):
        return Verdict(None, None, f"unusable gold: {problem}")
    if text is None:
        return Verdict(False, None, "think part not closed")
    answer, problem = final_answer(text, unboxed)
    if answer is None:
        return Verdict(False, None, problem)
    same = "".join(answer.split()) == "".join(gold.split())
    return Verdict(same, answer, "equal" if same else "different")
