"""Whether a text's final answer equals a gold: extraction, reading, comparison. Runs inside a worker process."""

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from rewards.answer_text.boxes import final_answer, final_boxes, joined
from rewards.answer_text.letters import letter_of
from rewards.grader.comparing.canonical import canonical
from rewards.grader.comparing.clock import same_clock
from rewards.grader.comparing.comparison import equal
from rewards.grader.comparing.exact import NotRational, rational
from rewards.grader.reading.notation import normalise
from rewards.grader.reading.readings import has_dimension, loose_unit_reading, readings
from rewards.grader.reading.repairs import repaired
from rewards.grader.reading.shown import kind_of, shown
from rewards.grader.reading.wording import MOST_WORDS, plain_text
from rewards.grader.syntax_tree import (
    MINUS_ONE,
    Node,
    Power,
    TooLarge,
    Unreadable,
    Unsupported,
    children,
    free_symbols,
)

sys.set_int_max_str_digits(20_000)
# What stands where a dataset has no answer; "proof", "notfound" and the like are NuminaMath's.
_NO_GOLD = re.compile(
    r"none|null|nan|n/?a|nil|unknown|empty|error|tbd|todo|q\.?e\.?d|[?\-\[\]()<>.]*|\[none\]|<na>|\\(?:black|large)?square"
    r"|(?:answer |solution )?(?:is )?(?:not ?(?:found|available|provided|given|applicable|specified)|missing|omitted)"
    r"|no (?:final )?(?:answer|solution (?:found|provided|given|available))(?: (?:found|provided|given|available))?"
    r"|(?:please )?(?:see|refer to|cf\.?)(?: the)? (?:solution|proof|explanation|answer|above|below|figure|diagram)s?"
    r"(?: (?:above|below|for (?:the )?\w+))?"
    r"|(?:the )?(?:full |complete )?(?:proof|proved|proven|to prove|shown|as shown|to be proved)"
    r"(?: (?:is )?(?:omitted|completed?|above|below|only|required|needed|by [\w ]+|problem|question))?"
    r"|(?:it is )?(?:a )?proof(?: |-)?(?:based )?(?:problem|question)?|proof\s?[:.,].*"
    r"|(?:the )?solution|as (?:required|desired)"
)
_LETTER_FONTS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|bf|rm)(?![A-Za-z])|[{}$*]")
_CHOICE = re.compile(r"^\s*\(?\s*([A-J])\s*\)?\s*\.?\s*$")


@dataclass(frozen=True)
class Verdict:
    """`correct` is None when the gold is unusable; `extracted` is the answer as written, None if there is none."""

    correct: bool | None
    extracted: str | None
    reason: str


def grade(text: str | None, gold: str, unboxed: str = "none") -> Verdict:
    """Judges the text after the think part; None stands for a think part that was never closed."""
    if problem := gold_problem(gold):
        return Verdict(None, None, f"unusable gold: {problem}")
    if text is None:
        return Verdict(False, None, "think part not closed")
    answer, reason = final_answer(text, unboxed)
    if answer is None:
        return Verdict(False, None, reason)
    try:
        return Verdict(*_compared(gold_answer(gold), answer))
    except TooLarge as error:
        return Verdict(False, answer, f"too large: {error}")
    except Unreadable as error:
        return Verdict(False, answer, f"unreadable: {error}")
    except (RecursionError, ArithmeticError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        return Verdict(False, answer, f"cannot be compared: {type(error).__name__}: {error}"[:300])


@lru_cache(maxsize=8192)
def gold_problem(gold: str) -> str | None:
    """What is wrong with a gold, None if it is usable: it must be readable and equal to itself."""
    answer = gold_answer(gold)
    plain = plain_text(answer)
    if not plain:
        return "is empty"
    if _NO_GOLD.fullmatch(plain) or _NO_GOLD.fullmatch(plain.strip("()[]")):
        return f"is {plain!r}"
    try:
        if not same_answer(answer, answer):
            return "does not equal itself"
        if _divides_by_zero(answer):
            return "divides by zero"
    except (TooLarge, Unreadable) as error:
        return f"cannot be read: {error}"
    except (RecursionError, ArithmeticError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        return f"cannot be compared: {type(error).__name__}: {error}"[:300]
    return None


def gold_reading(gold: str) -> tuple[str, str]:
    """Kind and plain text of what a usable gold is taken for: see rewards.golds.explain_golds."""
    answer = gold_answer(gold)
    if letter := _CHOICE.match(_LETTER_FONTS.sub("", answer)):
        return "letter", letter.group(1)
    try:
        node = canonical(readings(answer)[0])
    except Unsupported:
        return "left to math-verify", normalise(answer)
    return kind_of(node), shown(node)


def _divides_by_zero(answer: str) -> bool:
    def undefined(node: Node) -> bool:
        if isinstance(node, Power) and node.exponent == MINUS_ONE and not free_symbols(node.base):
            try:
                return rational(node.base) == 0
            except NotRational:
                return False
        return any(undefined(child) for child in children(node))

    try:
        return any(undefined(node) for node in readings(answer))
    except ZeroDivisionError:
        return True
    except Unsupported:
        return False


def gold_answer(gold: str) -> str:
    """The answer in a gold: what follows `####`, its final box, a whole solution's final statement, or all of it."""
    if "####" in gold:
        gold = gold.rpartition("####")[2]
    gold = repaired(gold)
    if boxes := final_boxes(gold):
        return joined(boxes)
    words = len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", gold))
    if words > MOST_WORDS or (words > 4 and re.search(r"[.!?$]\s+[A-Z*]", gold)):
        return final_answer(gold, "formula")[0] or gold.strip()
    return gold.strip()


def _compared(gold: str, answer: str) -> tuple[bool, str, str]:
    same = same_answer(gold, answer)
    return same, answer, "equal" if same else "different"


def same_answer(gold: str, answer: str) -> bool:
    """Whether two answers are the same. Raises TooLarge or Unreadable when that cannot be told."""
    if (letter := _CHOICE.match(_LETTER_FONTS.sub("", gold))) and (given := letter_of(answer)):
        return given == letter.group(1)
    try:
        golds = readings(gold)
    except Unsupported:
        return _same_by_library(gold, answer)
    try:
        # If the answer still contains an integral and the gold does not, it is wrong: `readings` raises Unsupported.
        answers = readings(answer)
    except TooLarge:
        if _same_writing(gold, answer):
            return True
        raise
    if (same := same_clock(gold, answer, golds[0], answers[0])) is not None:
        return same
    problem: TooLarge | None = None
    for left in golds:
        for right in answers:
            try:
                if equal(left, right):
                    return True
            except TooLarge as error:
                problem = error
            except Unreadable:
                continue
    if _same_with_loose_unit(gold, answer, golds, answers):
        return True
    if problem is not None:
        raise problem
    return False


def _same_writing(gold: str, answer: str) -> bool:
    return "".join(normalise(gold).split()) == "".join(normalise(answer).split())


def _same_by_library(gold: str, answer: str) -> bool:
    from rewards.grader.comparing.algebra import check_size, same_by_library

    written, other = normalise(gold), normalise(answer)
    if "".join(written.split()) == "".join(other.split()):
        return True
    with suppress(Unsupported):
        check_size(readings(answer)[0])
    return same_by_library(written, other)


def _same_with_loose_unit(gold: str, answer: str, golds: tuple[Node, ...], answers: tuple[Node, ...]) -> bool:
    """`5 m` and `5 \\text{ m}`: single letters are units only beside an answer that states one."""
    sides = [(gold, answers[0]), (answer, golds[0])]
    for text, other in sides:
        if has_dimension(other) and (loose := loose_unit_reading(text)) is not None and has_dimension(loose):
            return equal(loose, other)
    return False
