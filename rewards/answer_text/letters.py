"""The letter of a multiple-choice answer."""

import re
import unicodedata
from typing import Any

_FONTS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm|operatorname|bf|rm|it)"
    r"(?![A-Za-z])\s*"
)
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad(?![A-Za-z])|~|\u00a0")
_PLAIN_SIGNS = str.maketrans({"’": "'", "‘": "'", "–": "-", "—": "-", "\u200b": None})
_MARKUP = re.compile(r"</?(?:b|i|em|strong|span|p|br)\s*/?>|\*+|(?<!\w)_+|_+(?![\w{])|(?<!\\)[{}]|[$`\"“”]|\\[()\[\]]")
_QUOTED = re.compile(r"(?<!\w)'([^'\n]{1,80})'(?!\w)")
_LEADING_WORDS = re.compile(
    r"^(?:the\s+)?(?:(?:final|correct|best)\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*(?:(?:option|choice)\s+)?",
    re.I,
)
_LETTER = re.compile(
    r"^(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|([A-Za-z]))"
    r"(?=$|[\s.):,;\]]|-\d[\d.]*\s*[A-Za-z]|\(\s*[A-Za-z]\s*\))"
)
_DESCRIBED = re.compile(r"^(?:[.):,;]|-+\s*(?![\d.\s+*/^()-]*$|[A-Za-z]$))")  # "C. 42 m", "C - 40 m"; not C - 40
_ANOTHER = re.compile(
    r"^(?:[,;/&|+-]|and\b|or\b)?\s*(?:(?:and|or)\b\s*)?(?:(?:option|choice)\s+)?"
    r"(?:\(\s*[A-Za-z]\s*\)|[A-Z](?:$|[\s,.;)]))|^(?:[,;/&|]|and\b|or\b)\s*[a-z](?:$|[\s,.;)])",
    re.I,
)


def plain(text: str) -> str:
    """`text` without fonts, dollars, quotes and emphasis: `$\\mathbf{C}$` and `**C**` are C."""
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN_SIGNS).replace("\\&", "&")
    text = _QUOTED.sub(r"\1", text)  # not the prime of A'
    return _MARKUP.sub("", _SPACES.sub(" ", _FONTS.sub(" ", text)))


def letter_of(text: str) -> str | None:
    """The one letter that `text` names: "C", "(c)", "\\text{C}", "C. 42 m", "Option C"; None for none or several."""
    words = _LEADING_WORDS.sub("", " ".join(plain(text).split())).strip()
    match = _LETTER.match(words)
    if not match:
        return None
    rest = words[match.end() :].strip()
    if _ANOTHER.match(rest):
        return None  # "A or B"
    if rest and match.group(3) and not _DESCRIBED.match(rest):
        return None  # a sentence that starts with a one-letter word, or a formula
    return next(group for group in match.groups() if group).upper()


def gold_letter(gold: Any) -> str | None:
    """The letter of a gold such as "C", "(C)" or "\\text{(C)}"; None for anything else."""
    return letter_of(gold) if isinstance(gold, str) and len(gold) <= 40 else None
