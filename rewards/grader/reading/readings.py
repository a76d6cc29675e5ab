"""From the text of an answer to what it can mean."""

import re
from functools import lru_cache

from rewards.answer_text.boxes import PART_NAMES
from rewards.grader.reading.grammar import read_tokens
from rewards.grader.reading.notation import normalise
from rewards.grader.reading.number_words import BASES
from rewards.grader.reading.tokens import Token, tokenise
from rewards.grader.reading.wording import MOST_WORDS, as_words, in_words, without_leading_words
from rewards.grader.syntax_tree import (
    Based,
    Bracketed,
    Listing,
    Node,
    Product,
    TooLarge,
    Unit,
    Unreadable,
    Unsupported,
    children,
    contains,
)
from rewards.grader.units import UNITS

_THOUSANDS = re.compile(r"(?<![\d.,_^A-Za-z])([1-9]\d{0,2})((?:,\d{3})+)(?![\d])(?!,\d)")
_BASED = re.compile(
    r"^(?P<sign>-?)\s*(?:\(\s*(?P<bracketed>[0-9A-Za-z]+)\s*\)|(?:\\(?:text|mathrm)\s*\{)?(?P<digits>[0-9A-Za-z]*\d[0-9A-Za-z]*|[A-Fa-f]{2,})\}?)"
    r"\s*(?:_\s*(?:\{\s*)?(?:\\text\s*\{)?\s*(?:base\s*)?(?P<subscript>\d{1,2}|[a-z]+)\s*\}?\s*\}?"
    r"|\s*\(?(?:\\text\s*\{)?\s*\(?(?:in )?base[ ~-]?\s*\}?\s*(?P<base>\d{1,2}|[a-z]+)\s*\)?\}?\)?)$"
)
# P(A|B) = ..., E[X] = ..., a . b = ... of vectors: names of a value that are no mathematics of the grammar's.
_NAMED = re.compile(
    r"^(?:(?:\\(?:operatorname|text|mathbb|mathrm)\s*\{\s*)?(?:P|Pr|E|D|Var|d|Area|area|dist|\\Pr)\s*\}?\s*[(\[](?:[^()\[\]]|\([^()]*\))*[)\]]"
    r"|\\(?:vec|overrightarrow|mathbf)\s*(?:\{\s*\w+\s*\}|\w)\s*\\cdot\s*\\(?:vec|overrightarrow|mathbf)\s*(?:\{\s*\w+\s*\}|\w))"
    r"\s*=\s*(?=[^=]+$)"
)
# 2x = 6 => x = 3 says x = 3; "1/3 (about 0.33)" is 1/3 ≈ 0.33.
_ARROW = re.compile(
    r"^.*=.*(?:\\(?:Rightarrow|Longrightarrow|implies|therefore)(?![A-Za-z])|=>|\\text\s*\{\s*(?:so|hence|thus|therefore),?\s*\})"
    r"[\s,]*(?=[^=]*(?:=|\d))(?!.*(?:\\implies|[Rr]ightarrow))"
)
_APPROXIMATELY = re.compile(
    r"(?<![=\s,;(])\s*(?:[,;]\s*(?:\\text\s*\{\s*)?(?:or\s+)?|(?:\\text\s*\{\s*)?(?:\(\s*|or\s+)(?:\\text\s*\{\s*)?)"
    r"(?:approximately|approx\.?|about|roughly|around|\\approx(?![A-Za-z]))\s*\}?\s*"
    r"(?P<value>-?\$?[\d.,]*\d(?:\s*\\?%|\s*\\text\s*\{[^{}]*\}(?:\^\d)?)?)[)}\s]*$"
)
_PART, _BRACKETED_PART = (
    re.compile(
        r"(?:^|(?<=[\s,;.}{]))(?:\\text(?:bf)?\s*\{\s*)?(?:[Pp]art\s*)?"
        + opening
        + r"\s*([a-h]|i{1,3}|iv|v|I{1,3}|IV|V|[1-9])\s*\)\s*[:.]?\s*\}?\s*"
    )
    for opening in ("", r"\(")
)
_LOOSE_UNIT = frozenset("msghLNJWVAK")


@lru_cache(maxsize=4096)
def readings(text: str) -> tuple[Node, ...]:
    """What an answer can mean, the likeliest first; several only for digit groups such as 100,200.

    Raises Unreadable, Unsupported or TooLarge when it means nothing that can be compared.
    """
    words = in_words(text)
    if words is not None:
        return (words,)
    written = normalise(without_leading_words(text.strip()))
    if not written:
        raise Unreadable("empty")
    if "=" in written:
        written = _NAMED.sub("", _ARROW.sub("", written))
    if "o" in written:  # approximately, \\approx, about
        written = _APPROXIMATELY.sub(r" \\approx \g<value>", written)
    words = in_words(written)
    if words is not None:
        return (words,)
    if based := _based(written):
        return (based,)
    if ")" in written and (parts := _parts(written)):
        return (parts,)
    spoken = as_words(written)
    if spoken is not None and _only_words(written):
        return (spoken,)
    if spoken is None and "\\" not in written and len(re.findall(r"[A-Za-z]{2,}", written)) > MOST_WORDS:
        raise Unreadable("a long text")
    grouped = _merge_thousands(written)
    found: list[Node] = []
    problem: Unreadable | None = None
    for variant in dict.fromkeys((grouped, written)):
        if variant == written != grouped and re.search(r",0\d\d(?!\d)", written):
            continue  # 1,000 is no list of 1 and 0
        try:
            node = read_tokens(tokenise(variant))
        except Unreadable as error:
            problem = error
            continue
        except RecursionError as error:
            raise TooLarge("nested too deeply") from error
        if _all_units(node):
            if spoken is not None:
                return (spoken,)
            if has_words(node):
                raise Unreadable("a long text")
        found.append(node)
    if found:
        return tuple(found)
    if spoken is not None and not isinstance(problem, Unsupported):
        return (spoken,)
    raise problem or Unreadable("not an answer")


def _parts(text: str) -> Bracketed | None:
    """The answers to several parts, "(a) 3 (b) 5": in this order, as a tuple. None for anything else."""
    found = list((_BRACKETED_PART if text.lstrip("\\texbfPpar{ ").startswith("(") else _PART).finditer(text))
    names = [match[1] for match in found]
    if len(found) < 2 or found[0].start() or not any(names == known[: len(names)] for known in PART_NAMES):
        return None
    ends = [match.start() for match in found[1:]] + [len(text)]
    contents = [text[match.end() : end].strip(" ,;.") for match, end in zip(found, ends, strict=True)]
    try:
        items = [readings(re.sub(r"\s*(?:and|\\text\s*\{\s*and\s*\})$", "", each)) for each in map(_closed, contents)]
    except Unreadable:
        return None
    return Bracketed("(", ")", tuple(item[0] for item in items))


def _closed(text: str) -> str:
    """The text without the closing braces whose opening ones stand before it, and the other way round."""
    text = text.removesuffix("}").strip() if text.count("}") > text.count("{") else text
    return text + "}" * (text.count("{") - text.count("}"))


def loose_unit_reading(text: str) -> Node | None:
    """`5 m` with the last letters read as units, for comparison with an answer that has a unit."""
    try:
        tokens = tokenise(normalise(text))
    except (Unreadable, TooLarge):
        return None
    changed = [
        Token("word", token.text, True, token.after_space)
        if token.kind == "letter" and token.text in _LOOSE_UNIT and index > 0
        else token
        for index, token in enumerate(tokens)
    ]
    try:
        node = read_tokens(changed)
    except (Unreadable, TooLarge):
        return None
    return node if changed != tokens and contains(node, Unit) else None


def _all_units(node: Node) -> bool:
    """Whether a node is made of words and units, without any number."""
    if isinstance(node, Product | Listing):
        return all(_all_units(part) for part in children(node))
    return isinstance(node, Unit)


def has_words(node: Node) -> bool:
    """Whether a word that names what is counted stands in the node."""
    return bool(node.words) if isinstance(node, Unit) else any(has_words(child) for child in children(node))


def has_dimension(node: Node) -> bool:
    """Whether a unit of measure stands in the node."""
    if isinstance(node, Unit):
        return bool(node.dimensions)
    return any(has_dimension(child) for child in children(node))


def _merge_thousands(text: str) -> str:
    """1,234 as 1234. Inside brackets commas separate, unless a group starts with 0 as in (1,000, 2)."""
    depth_at: list[int] = []
    depth = 0
    for index, character in enumerate(text):
        escaped = index > 0 and text[index - 1] == "\\"
        if character in "([" or (character == "{" and escaped):
            depth += 1
        elif character in ")]" or (character == "}" and escaped):
            depth -= 1
        depth_at.append(depth)

    def merge(match: re.Match[str]) -> str:
        if depth_at[match.start()] > 0 and not re.search(r",0", match[2]):
            return match.group()
        return match.group().replace(",", "")

    return _THOUSANDS.sub(merge, text)


def _only_words(text: str) -> bool:
    """Whether the text is words alone, at least one of them longer than a product of variables."""
    from rewards.grader.reading.tokens import _variables
    from rewards.grader.reading.wording import plain_text

    plain = plain_text(text)
    if not re.fullmatch(r"[^\W\d_]+(?:[\s'’-]+[^\W\d_]+)*", plain) or "\\" in plain:
        return False
    bare = "\\" not in text
    if bare and re.fullmatch(r"[A-Z]{3,}", text):
        return True  # HTH, ABC: letters in this order
    if bare and " " not in plain and (len(plain) < 3 or _variables(plain)) and plain not in ("no", "up"):
        return False
    if len(plain) == 1:
        return False
    return not all(word in UNITS or len(word) == 1 for word in plain.split()) or "\\text" in text


def _based(text: str) -> Based | None:
    match = _BASED.match(text)
    if not match:
        return None
    digits = (match["bracketed"] or match["digits"]).upper()
    name = match["subscript"] or match["base"]
    base = int(name) if name.isdigit() else BASES.get(name, 0)
    if not 2 <= base <= 36 or base == 10:
        return None
    if base != 16 and not any(digit.isdigit() for digit in digits):
        return None  # a product of variables with a subscript
    try:
        value = int(digits, base)
    except ValueError:
        return None
    return Based(digits.lstrip("0") or "0", base, match["sign"] == "-" and value != 0)
