"""Times of day: 3:00 is the time 3 PM says, and never the ratio that equals every other full hour."""

import re
from dataclasses import dataclass
from math import gcd

from rewards.grader.reading.wording import plain_text
from rewards.grader.syntax_tree import Node, Words

_CLOCK = re.compile(
    r"(?P<hour>[01]?\d|2[0-3])"
    r"(?: ?: ?(?P<minute>[0-5]\d)(?: ?: ?(?P<second>[0-5]\d))?(?: ?(?:h|hours|o'clock))?| o'clock)"
)
_PAIR = re.compile(r"\d{1,2} ?: ?\d{2}")


@dataclass(frozen=True)
class Clock:
    """`stated`: the text says AM, PM, noon or the like, so `hour` counts from 0 to 23. `ratio`: the text may also be a
    ratio in lowest terms, such as 3:10."""

    hour: int
    minute: int
    second: int
    stated: bool
    ratio: bool


def clock_of(text: str, reading: Node) -> Clock | None:
    """The time that an answer gives; None for anything else. Three parts are a time when one of them starts with 0."""
    if isinstance(reading, Words) and reading.text.startswith("time "):
        hour, minute = map(int, reading.text.removeprefix("time ").split(":"))
        return Clock(hour, minute, 0, stated=True, ratio=False)
    match = _CLOCK.fullmatch(plain_text(text))
    if not match:
        return None
    later = [part for part in (match["minute"], match["second"]) if part]
    zero = any(part.startswith("0") for part in later)
    if len(later) == 2 and not zero:
        return None
    hour, minute, second = int(match["hour"]), int(match["minute"] or 0), int(match["second"] or 0)
    return Clock(hour, minute, second, stated=False, ratio=len(later) == 1 and not zero and gcd(hour, minute) == 1)


def same_clock(gold: str, answer: str, gold_reading: Node, answer_reading: Node) -> bool | None:
    """Whether two answers are the same time of day; None when the gold is no time, or is a ratio as well and the answer
    can only be a ratio."""
    wanted = clock_of(gold, gold_reading)
    if wanted is None:
        return None
    given = clock_of(answer, answer_reading)
    if given is None:
        return None if wanted.ratio and not _PAIR.fullmatch(plain_text(answer)) else False
    if (wanted.minute, wanted.second) != (given.minute, given.second):
        return False
    if wanted.stated == given.stated:
        return wanted.hour == given.hour
    stated, bare = (wanted, given) if wanted.stated else (given, wanted)
    return stated.hour == bare.hour or (1 <= bare.hour <= 12 and stated.hour % 12 == bare.hour % 12)
