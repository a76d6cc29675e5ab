"""One spelling for the many ways to write the same answer: unicode, spacing commands, delimiters, digit groups."""

import re
import unicodedata

from rewards.grader.reading.repairs import repaired
from rewards.grader.syntax_tree import TooLarge

LONGEST = 2_000  # characters
DEEPEST = 60  # open brackets at once

_CHARACTERS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("×⨯✕", r"\times "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    "÷": r"\div ",
    "∕": "/",
    "⁄": "/",
    "±": r"\pm ",
    "∓": r"\mp ",
    "√": r"\sqrt ",
    "∛": r"\sqrt[3]",
    "∜": r"\sqrt[4]",
    "∞": r"\infty ",
    "π": r"\pi ",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "≅": r"\cong ",
    "≡": r"\equiv ",
    "∈": r"\in ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∖": r"\setminus ",
    "∅": r"\emptyset ",
    "ø": r"\emptyset ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "°": r"\degree ",
    "º": r"\degree ",
    "′": "'",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "…": r"\ldots ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "∣": r"\mid ",
    "⁡": "",
    "\u200b": "",
    "\ufeff": "",
    "\u2062": "",
    **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", "~"),
}
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        str.split(
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi "
            "chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
        ),
        strict=True,
    )
)
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_SPELLINGS = (
    (re.compile(r"\\(?:dfrac|tfrac|cfrac|sfrac|nicefrac|flatfrac)(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:dbinom|tbinom)(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:left|right|middle)\s*\."), ""),
    (re.compile(r"\\(?:[bB]igg?[lrm]?|left|right|middle)(?![A-Za-z])\s*"), ""),
    (
        re.compile(
            r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|hfill|noindent|strut|tiny|small|normalsize|large|Large|LARGE|huge|Huge|centering|rm|bf|it)(?![A-Za-z])"
        ),
        "",
    ),
    (re.compile(r"\\(?:hspace|vspace|kern|phantom|label|tag|color|textcolor)\*?\s*\{[^{}]*\}"), " "),
    (re.compile(r"\\(?:leq|leqslant|leqq)(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\(?:geq|geqslant|geqq)(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\(?:neq|not\s*=)(?![A-Za-z])|\\ne(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"(?<=\d)!\s*=\s*(?=\d)"), "! = "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:lvert|rvert|vert)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:varnothing|empty)(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\\(?:backslash)(?![A-Za-z])"), r"\\setminus"),
    (
        re.compile(r"\^\s*\{?\s*\\(?:circ|degree)(?![A-Za-z])\s*\}?|\\textdegree(?![A-Za-z])|\\degree(?![A-Za-z])"),
        r"\\degree ",
    ),
    (re.compile(r"\\(?:dots|cdots|dotsc|dotsb)(?![A-Za-z])"), r"\\ldots "),
    (re.compile(r"\\(?:allowbreak|nobreak|break|newline|par|nonumber)(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:text)?(?:euro)(?![A-Za-z])"), "€"),
    (re.compile(r"\\(?:pounds|textsterling)(?![A-Za-z])"), "£"),
    (re.compile(r"\\textdollar(?![A-Za-z])"), r"\\$"),
)
_PLAIN_SPELLINGS = tuple(each for each in _SPELLINGS if not each[0].pattern.startswith("\\\\"))
_ROW_SPACING = re.compile(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]")
_CHOOSING = (
    (re.compile(r"(?<![A-Za-z\\])C\(\s*(\d+)\s*,\s*(\d+)\s*\)"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?:^|\{\s*\})\s*[_^]\s*\{?\s*(\w+)\s*\}?\s*C\s*_\s*\{?\s*(\w+)\s*\}?"), r"\\binom{\1}{\2}"),
    (re.compile(r"^\s*(\d+)\s*(?:\\text\s*\{\s*to\s*\}|to)\s*(\d+)\s*$"), r"\1:\2"),
)
# Commas, thin spaces and the like between groups of three digits.
_GROUPED = re.compile(
    r"(?<![\d.,^_])(\d{1,3}(?:(?:\s?(?:\{\s*,\s*(?:\\[,!;: ])?\s*\}|\\text\s*\{\s*,\s*\})|\s\\,"
    r"|,\s?\\!|\\!,|\\,|\\:|\\;|\\ |~|\\thinspace )\s?\d{3})+)(?!\d)"
)
_SPACED = re.compile(r"(?<![\d.,/^_}])(?<!\d )([1-9]\d{0,2}(?: \d{3})+)(?![\d/]| ?/|\s*\\frac| \d)")
# "250.5 m²", "9 m/s²": after a number and a blank these are units, not variables.
_MEASURE = re.compile(r"^(-?[\d.,]*\d)[ ~]+(m|\\mathrm\s*\{\s*m\s*\})\s*(/\s*s\s*)?(\^\s*\{?[23]\}?)?$")
_SPACING = re.compile(r"\\[,;:!> ]|\\q?quad(?![A-Za-z])|\\(?:thin|med|thick|neg)space(?![A-Za-z])|~")


def normalise(text: str) -> str:
    """The same answer in plain ASCII LaTeX: one spelling per command, no spacing commands, no grouped digits.

    Raises TooLarge beyond LONGEST characters or DEEPEST open brackets.
    """
    if len(text) > LONGEST:
        raise TooLarge("answer too long")
    text = _plain_characters(repaired(text))
    if _depth(text) > DEEPEST:
        raise TooLarge("nested too deeply")
    if "{" in text:
        text = re.sub(r"\{\s*:\s*\}", ":", text)
    text = _GROUPED.sub(lambda match: re.sub(r"\D", "", match.group()), text)
    if "{" in text:
        text = re.sub(r"\{\s*,\s*\}", ",", text)
    text = _ROW_SPACING.sub(r"\\\\", text)
    for pattern, spelling in _CHOOSING:
        text = pattern.sub(spelling, text)
    text = text.replace(r"\\", "\x00")  # a row separator, not the start of a spacing command
    text = _SPACING.sub(" ", text)
    for pattern, spelling in _SPELLINGS if "\\" in text else _PLAIN_SPELLINGS:
        text = pattern.sub(spelling, text)
    text = re.sub(r"[ \t\r\n]+", " ", text.replace("per cent", "percent")).strip()
    text = _SPACED.sub(lambda match: match.group().replace(" ", ""), text)
    text = _without_wrapping(text)
    if (measure := _MEASURE.match(text)) and (measure[3] or measure[4]):
        text = f"{measure[1]} \\text{{m}}{'/' + chr(92) + 'text{s}' if measure[3] else ''}{measure[4] or ''}"
    return text.replace("\x00", r"\\")


def _plain_characters(text: str) -> str:
    written: list[str] = []
    superscript = ""
    for character in text:
        if character in _SUPERSCRIPTS:
            superscript += _SUPERSCRIPTS[character]
            continue
        if superscript:
            written.append(f"^{{{superscript}}}")
            superscript = ""
        if character in _CHARACTERS:
            written.append(_CHARACTERS[character])
        elif character in _GREEK:
            written.append(f"\\{_GREEK[character]} ")
        elif character in _SUBSCRIPTS:
            written.append(f"_{{{_SUBSCRIPTS[character]}}}")
        elif character in "\u0305\u0304" and written and written[-1].isdigit():
            written[-1] = f"\\overline{{{written[-1]}}}"
        elif ord(character) < 128:
            written.append(character)
        elif unicodedata.category(character) == "Nd":
            written.append(str(unicodedata.digit(character)))
        elif "VULGAR FRACTION" in unicodedata.name(character, ""):
            above, _, below = unicodedata.normalize("NFKC", character).partition("⁄")
            written.append(f"\\frac{{{above}}}{{{below}}}")
        else:
            written.append(unicodedata.normalize("NFKC", character))
    if superscript:
        written.append(f"^{{{superscript}}}")
    return "".join(written).replace(r"}\overline{", "")


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def _without_wrapping(text: str) -> str:
    """Without math delimiters, emphasis and final punctuation around the whole."""
    before = None
    while text != before:
        before = text
        text = text.strip()
        for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`")):
            inner = text[len(opening) : len(text) - len(closing)]
            if (
                len(text) > len(opening) + len(closing)
                and text.startswith(opening)
                and text.endswith(closing)
                and not text.endswith("\\" + closing)
                and opening not in inner.replace(r"\$", "")
            ):
                text = inner
        text = re.sub(r"(?:(?<!\.)\.|[,;:])$", "", text.rstrip())
        text = re.sub(r"\\text\s*\{\s*[.,;:]?\s*\}$|^\s*(?:=\s*)+", "", text)
    # Delimiters inside a sentence: "$x = 5$ or $x = 6$". A lone dollar before a digit is money.
    plain = text.replace(r"\$", "")
    if plain.count("$") % 2 == 0 and "$" in plain:
        text = re.sub(r"(?<!\\)\$", " ", text)
    return re.sub(r"\\[()](?![A-Za-z])", " ", text).strip() if r"\(" in text else text
