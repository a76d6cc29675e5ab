"""Checking gold answers when a dataset is loaded, so that a bad one is neither a silent 0 nor a reward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("math", "choice_letter", "countdown")


@dataclass(frozen=True)
class BadGold:
    """A gold answer that nothing can be graded against: its row index (from 0), the value, and what is wrong."""

    row: int
    gold: Any
    reason: str


def check_golds(golds: Sequence[Any], kind: str = "math", workers: int | None = None) -> list[BadGold]:
    """The unusable ones among the golds: missing, empty, "None", unparsable, or not equal to themselves.

    `kind` is the reward that will read them: `math` (math_answer), `choice_letter`, or `countdown` (a number).
    Raises rewards.grader.workers.pool.PoolError when worker processes cannot be started.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    texts = [gold_text(gold) for gold in golds]
    if kind == "choice_letter":
        from rewards.answer_text.letters import gold_letter

        reasons = [None if gold_letter(gold) else "is not one choice letter" for gold in golds]
    else:
        from rewards.grader.workers.pool import shared_pool

        distinct = sorted({text for text in texts if text is not None})
        results = shared_pool(workers).run([{"op": "gold", "gold": text} for text in distinct])
        problems = {
            text: f"cannot be checked: {result['failure']}" if "failure" in result else result["reason"]
            for text, result in zip(distinct, results, strict=True)
        }
        reasons = ["is missing" if text is None else problems[text] for text in texts]
    return [BadGold(row, golds[row], reason) for row, reason in enumerate(reasons) if reason]


def gold_text(gold: Any) -> str | None:
    """A gold as text: strings as they are, finite numbers written out; None for anything else."""
    if isinstance(gold, str):
        return gold
    if isinstance(gold, bool) or gold is None:
        return None
    if isinstance(gold, int):
        return str(gold)
    if isinstance(gold, float):
        return repr(gold) if gold == gold and abs(gold) != float("inf") else None
    return None
