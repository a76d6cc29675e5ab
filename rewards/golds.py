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


@dataclass(frozen=True)
class GoldReading:
    """What a gold answer is taken for.

    `row` counts from 0. `kind` is letter, integer, fraction, decimal, percentage, quantity, expression, equation,
    inequality, tuple, list, set, interval, matrix, ratio, congruence, number in a base, time, date, text, left to
    math-verify, or unusable. `shown` is the reading as plain text ("" if unusable), `reason` why a gold is unusable.
    """

    row: int
    kind: str
    shown: str
    reason: str | None


def check_golds(golds: Sequence[Any], kind: str = "math", workers: int | None = None) -> list[BadGold]:
    """The unusable ones among the golds: missing, empty, "None", unparsable, or not equal to themselves.

    `kind` is the reward that will read them: `math` (math_answer), `choice_letter`, or `countdown` (a number).
    Raises rewards.grader.workers.pool.PoolError when worker processes cannot be started.
    """
    found = _readings(golds, kind, "gold", workers)
    return [BadGold(each.row, golds[each.row], each.reason) for each in found if each.reason]


def explain_golds(golds: Sequence[Any], kind: str = "math", workers: int | None = None) -> list[GoldReading]:
    """One GoldReading for each gold, in order; `kind` and errors as in `check_golds`."""
    return _readings(golds, kind, "explain", workers)


def _readings(golds: Sequence[Any], kind: str, operation: str, workers: int | None) -> list[GoldReading]:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "choice_letter":
        from rewards.answer_text.letters import gold_letter

        letters = [gold_letter(gold) for gold in golds]
        return [
            GoldReading(row, "letter", letter, None)
            if letter
            else GoldReading(row, "unusable", "", "is not one choice letter")
            for row, letter in enumerate(letters)
        ]
    from rewards.grader.workers.pool import shared_pool

    texts = [gold_text(gold) for gold in golds]
    distinct = sorted({text for text in texts if text is not None})
    results = shared_pool(workers).run([{"op": operation, "gold": text} for text in distinct])
    found: dict[str, dict[str, Any]] = dict(zip(distinct, results, strict=True))
    readings = []
    for row, text in enumerate(texts):
        result = {"reason": no_gold(golds[row])} if text is None else found[text]
        reason = f"cannot be checked: {result['failure']}" if "failure" in result else result["reason"]
        readings.append(GoldReading(row, result.get("kind", "unusable"), result.get("shown", ""), reason))
    return readings


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


def no_gold(gold: Any) -> str:
    """Why `gold_text` gives None: a missing value, or one that is neither text nor number."""
    missing = gold is None or isinstance(gold, float)  # NaN and infinity
    return "is missing" if missing else f"is neither text nor number but {type(gold).__name__}"
