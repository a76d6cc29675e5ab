"""Answers in words: plain text, yes and no, number words, dates and times of day."""

import re
from fractions import Fraction

from rewards.grader.reading.number_words import SMALL
from rewards.grader.syntax_tree import MINUS_ONE, Node, Number, Product, SetOf, Symbol, Words

MOST_WORDS = 15
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|up|md)?|mbox|hbox|mathrm|mathit|mathbf|mathsf|mathtt|emph|operatorname|textsc)\s*"
    r"(?=\{)"
)
_OPTION = re.compile(r"^\\text(?:bf|rm)?\s*\{\s*\([A-J]\)\s*\}(?:\s|~|\\[ ,;:]|\\q?quad)*(?=\S)")
_ANSWER_IS = r"(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+)?(?:(?:final|correct)\s+)?answer\s*(?:is|:|=)?\s*:?"
_LEADING = re.compile(
    rf"^{_ANSWER_IS}\s+|^\\text\s*\{{\s*{_ANSWER_IS}\s*\}}\s*"
    r"|^(?:approximately|about|roughly|exactly|approx\.?|equal to|is|are)\s+|^\\approx\s*|^~\s*",
    re.IGNORECASE,
)
_SENTENCE = re.compile(rf"\\text\s*\{{\s*({_ANSWER_IS}\s+[^{{}}]*)\}}", re.IGNORECASE)
_PHRASES: dict[str, Node] = {
    **dict.fromkeys(
        ("no solution", "no solutions", "no real solution", "no real solutions", "empty set", "no such number",
         "there are no solutions", "there is no solution", "no solution exists", "no solutions exist", "no real roots"),
        SetOf(()),
    ),
    **dict.fromkeys(("infinity", "positive infinity", "+infinity", "inf"), Symbol("oo")),
    **dict.fromkeys(("negative infinity", "minus infinity", "-infinity", "-inf"), Product((MINUS_ONE, Symbol("oo")))),
    **dict.fromkeys(("does not exist", "dne", "undefined", "not defined", "doesn't exist"), Words("undefined")),
    **dict.fromkeys(("infinitely many", "infinitely many solutions", "infinite solutions"), Words("infinitely many")),
    **dict.fromkeys(("all real numbers", "all reals", "all real x", "every real number"), Symbol("set R")),
}  # fmt: skip
_PHRASES |= {"noon": Words("time 12:00"), "midnight": Words("time 0:00")}
_TENS = {name: 10 * (index + 2) for index, name in enumerate(
    str.split(
    "twenty thirty forty fifty sixty seventy eighty ninety"
))}  # fmt: skip
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MONTHS = str.split("january february march april may june july august september october november december")
_MONTH = "|".join(f"{name[:3]}(?:{name[3:]})?\\.?" if name != "may" else "may" for name in _MONTHS)
_DATES = (
    re.compile(rf"^(?P<month>{_MONTH})\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(?P<year>\d{{4}}))?$"),
    re.compile(
        rf"^(?:the\s+)?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH})(?:,?\s+(?P<year>\d{{4}}))?$"
    ),
    re.compile(r"^(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})$"),
)
_WEEKDAY = re.compile(r"^(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+(?=\S+\s*\d|\d)")
_TIME = re.compile(r"^(?P<hour>\d{1,2})(?:\s*:\s*(?P<minute>\d{2}))?\s*(?P<half>[ap])\.?\s?m\.?$")


def without_leading_words(text: str) -> str:
    """Without "The answer is", "approximately", or the letter of an option with its value, before the answer."""
    if sentence := _SENTENCE.fullmatch(text):
        text = sentence[1].strip()
    before = None
    while before != text:
        before = text
        text = _OPTION.sub("", _LEADING.sub("", text)).strip()
    return text


def plain_text(text: str) -> str:
    """The text without font commands, braces and math delimiters; lower case, single spaces, no final punctuation."""
    text = _TEXT_COMMAND.sub("", text)
    text = re.sub(r"\\[,;:! ]|~|[{}$*`\"]", " ", text)
    return re.sub(r"\s+", " ", text).strip(" .,;:!").lower()


def in_words(text: str) -> Node | None:
    """A text that means something by itself: a phrase, number word, date or time; None for anything else."""
    plain = plain_text(text)
    if plain in _PHRASES:
        return _PHRASES[plain]
    number = number_in_words(plain)
    if number is not None:
        return Number(Fraction(number))
    return _date(plain) or _time(plain)


def as_words(text: str) -> Words | None:
    """A text answer such as `even` or `Evelyn`; None for a broken formula and for a long text."""
    plain = plain_text(text)
    if "\\" in plain or not re.search(r"[^\W\d_]{2}", plain) or len(plain.split()) > MOST_WORDS:
        return None
    if any(plain.count(opening) != plain.count(closing) for opening, closing in ("()", "[]")):
        return None
    if re.search(r"[\^_=+*/<>|&#]", plain):
        return None
    plain = re.sub(r"^(?:the|an|a)\s+(?=\S)", "", plain.replace("-", " "))
    return Words(re.sub(r"^\((.*)\)$", r"\1", plain).strip())


def number_in_words(text: str) -> int | None:
    """forty-two, one hundred and five, three thousand: the integer, None if the text is no number."""
    words = [word for word in re.split(r"[\s-]+", text) if word]
    sign = 1
    if words and words[0] in ("minus", "negative"):
        sign, words = -1, words[1:]
    if not words or len(words) > 12 or words[0] == "and" or words[-1] == "and":
        return None
    total = current = 0
    for word in words:
        if word in SMALL:
            current += SMALL.index(word)
        elif word in _TENS:
            current += _TENS[word]
        elif word == "hundred" and 0 < current < 100:
            current *= 100
        elif word in _SCALES and current:
            total, current = total + current * _SCALES[word], 0
        elif word != "and":
            return None
    return sign * (total + current)


def _date(plain: str) -> Words | None:
    plain = _WEEKDAY.sub("", plain)
    for pattern in _DATES:
        if match := pattern.match(plain):
            month = match["month"]
            number = int(month) if month.isdigit() else [name[:3] for name in _MONTHS].index(month[:3]) + 1
            return Words(f"date {match['year'] or ''}-{number}-{int(match['day'])}")
    return None


def _time(plain: str) -> Words | None:
    if match := _TIME.match(plain):
        hour, minute = int(match["hour"]), int(match["minute"] or 0)
        if 1 <= hour <= 12 and minute < 60:
            return Words(f"time {hour % 12 + (12 if match['half'] == 'p' else 0)}:{minute:02}")
    return None
