"""Splitting a normalised answer into tokens. Text inside \\text{} is prose: its letters are words, not variables."""

import re
from dataclasses import dataclass
from fractions import Fraction

from rewards.answer_text.braces import group_end
from rewards.grader.syntax_tree import TooLarge, Unreadable
from rewards.grader.units import BARE_UNITS, CURRENCY_SIGNS, MEANINGFUL_WORDS, MULTIPLIERS

MOST_TOKENS = 1_200
MOST_DIGITS = 1_500  # of one number
LARGEST_WRITTEN_EXPONENT = 5_000  # as in 1e5000

FUNCTIONS = frozenset(
    str.split(
        "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc asin acos atan sinh cosh tanh coth "
        "sech csch arcsinh arccosh arctanh arsinh arcosh artanh ln log lg exp sqrt cbrt abs floor ceil max "
        "min gcd lcm det sgn arg Re Im"
    )
)
_NAMES = {"pi": r"\pi", "infinity": r"\infty", "inf": r"\infty", "oo": r"\infty", "infty": r"\infty"}
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|up|md)?|mbox|hbox|mathrm|mathit|mathbf|mathsf|mathtt|mathnormal|mathop|bm|"
    r"boldsymbol|operatorname\*?|emph|textsc)\s*\{"
)
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+(?![A-Za-z\d.{]))?)"
    r"|(?P<command>\\[A-Za-z]+\*?|\\.)"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<sign>.)",
    re.DOTALL,
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\s*(?:\\(?:overline|bar|dot)\s*(?:\{\s*(\d+)\s*\}|(\d)))(?!\d)")
_REPEATING_PARENTHESES = re.compile(r"^(-?\s*)(\d*)\.(\d*)\((\d+)\)$")
_TRUNCATED = re.compile(r"(\d*\.\d+)\s*(?:\.\.\.+|\\ldots)")
_UNITS_AFTER_NUMBERS = ("in", "min", "mi", "day", "cup")
_VARIABLE_GROUPS = ("abcdefgh", "uvwxyz", "pqrst", "klmn", "ijk", "rstuvw")


@dataclass(frozen=True)
class Token:
    """kind: number, repeating, truncated, letter, word (prose or unit), function, command, sign, or end."""

    kind: str
    text: str
    prose: bool = False
    after_space: bool = False


def tokenise(text: str) -> list[Token]:
    """Tokens of a normalised answer, an `end` token last. Raises Unreadable or TooLarge."""
    match = _REPEATING_PARENTHESES.match(text)
    if match:
        text = f"{match[1]}{match[2]}.{match[3]}\\overline{{{match[4]}}}"
    tokens = _tokens(text, prose=False, depth=0)
    if len(tokens) > MOST_TOKENS:
        raise TooLarge("too many symbols")
    return [*tokens, Token("end", "")]


def _tokens(text: str, prose: bool, depth: int) -> list[Token]:
    if depth > 8:
        raise TooLarge("nested too deeply")
    tokens: list[Token] = []
    position = 0
    space = False
    while position < len(text):
        if repeating := _REPEATING.match(text, position):
            whole, fixed = repeating[1], repeating[2]
            tokens.append(Token("repeating", f"{whole}.{fixed}.{repeating[3] or repeating[4]}", after_space=space))
            position = repeating.end()
            position += len(re.match(r"\s*(?:\.\.\.|\\ldots)?", text[position:])[0])  # type: ignore[index]
        elif truncated := _TRUNCATED.match(text, position):
            tokens.append(Token("truncated", truncated[1], after_space=space))
            position = truncated.end()
        elif opened := _TEXT.match(text, position):
            if (end := group_end(text, opened.end() - 1)) is None:
                raise Unreadable("unbalanced braces")
            content = text[opened.end() : end - 1]
            word = content.strip()
            plain = "math" in opened.group() or "operatorname" in opened.group() or r"\b" in opened.group()
            if plain and (len(word) == 1 or word in FUNCTIONS or word in _NAMES):
                tokens += _tokens(word, False, depth + 1)  # \mathrm{e}, \operatorname{sin}
            else:
                tokens += _tokens(content, True, depth + 1)
            position = end
        else:
            match = _TOKEN.match(text, position)
            assert match is not None
            position = match.end()
            kind, found = str(match.lastgroup), match.group()
            if kind == "space":
                space = True
                continue
            if kind == "letters":
                after_number = space and bool(tokens) and tokens[-1].kind == "number"
                if found in _UNITS_AFTER_NUMBERS and after_number:
                    tokens.append(Token("word", found, True, space))
                else:
                    tokens += _letters(found, prose, space)
            elif kind == "number":
                _check_size(found)
                if found.endswith(".") and text[position : position + 1].strip():
                    raise Unreadable("a point without digits")
                tokens.append(Token("number", found, prose, space))
            else:
                tokens.append(Token(kind, found, prose, space))
        space = False
        if len(tokens) > MOST_TOKENS:
            raise TooLarge("too many symbols")
    return tokens


def _letters(run: str, prose: bool, space: bool) -> list[Token]:
    if prose and run in ("min", "sec"):
        return [Token("word", run, True, space)]
    if run in FUNCTIONS:
        return [Token("function", run, prose, space)]
    if run in _NAMES:
        return [Token("command", _NAMES[run], prose, space)]
    if prose:
        return [Token("word", run, True, space)]
    known = run in BARE_UNITS or run in MULTIPLIERS or run in ("or", "and", "per", "sq", "cu", "mod")
    if known or run.lower() in MEANINGFUL_WORDS:
        return [Token("word", run, False, space)]
    for size in range(min(7, len(run)), 1, -1):
        head, tail = run[:size], run[size:]
        if head in FUNCTIONS and (len(head) > 2 or head == "ln") and len(tail) <= 2:
            return [Token("function", head, False, space), *_letters(tail, False, False)]
        if head == "pi" and len(tail) <= 1:
            return [Token("command", r"\pi", False, space), *_letters(tail, False, False)]
    if len(run) >= 3 and not _variables(run):
        return [Token("word", run, True, space)]
    return [Token("letter", letter, False, space and index == 0) for index, letter in enumerate(run)]


def _variables(run: str) -> bool:
    """Whether a run of letters is a product of variables (xyz, abc) rather than a word."""
    lower = run.lower()
    if not any(vowel in lower for vowel in "aeiou") and len(run) <= 4:
        return True
    return any(set(lower) <= set(group) for group in _VARIABLE_GROUPS) and list(lower) == sorted(set(lower))


def _check_size(number: str) -> None:
    mantissa, _, exponent = number.lower().partition("e")
    if len(mantissa) > MOST_DIGITS:
        raise TooLarge("too many digits")
    if exponent and (len(exponent) > 6 or abs(int(exponent)) > LARGEST_WRITTEN_EXPONENT):
        raise TooLarge("exponent too large")


def repeating_value(text: str) -> Fraction:
    """The value of "whole.fixed.period", as in 0.1\\overline{6} -> "0.1.6"."""
    whole, fixed, period = text.split(".")
    for part in (whole, fixed, period):
        _check_size(part)
    value = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
    return value + Fraction(int(period), 10 ** len(fixed) * (10 ** len(period) - 1))


CURRENCIES = frozenset(CURRENCY_SIGNS)
