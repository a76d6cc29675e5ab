"""The letter of a multiple-choice answer."""

import re
from typing import Any

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|bf|rm)\b\s*|\*+|_+|[{}$`\"']")


_LEADING_WORDS = re.compile(
    r"^(?:the\s+)?(?:(?:final|correct|best)\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*", re.I
)


_LETTER = re.compile(r"^(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|([A-Za-z]))(?=$|[\s.):,;\]])")


def letter_of(text: str) -> str | None:
    """The one letter that `text` names: "C", "(c)", "\\text{C}", "C. 42 m", "Option C"; None for none or several."""
    plain = _LEADING_WORDS.sub("", _WRAPPER.sub(" ", text).strip()).strip()
    match = _LETTER.match(plain)
    if not match:
        return None
    rest = plain[match.end() :].strip()
    if re.match(r"^(?:[,;/&]|and\b|or\b)\s*\(?[A-Za-z]\)?(?:$|[\s,.;)])", rest, re.I):
        return None  # "A or B"
    if rest and match.group(3) and not re.match(r"^[.):,;]", rest):
        return None  # a sentence that starts with a one-letter word
    return next(group for group in match.groups() if group).upper()


def gold_letter(gold: Any) -> str | None:
    """The letter of a gold such as "C", "(C)" or "\\text{(C)}"; None for anything else."""
    return letter_of(gold) if isinstance(gold, str) and len(gold) <= 40 else None
