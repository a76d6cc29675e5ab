r"""LaTeX that was damaged on its way into a file, repaired where only one thing can have been meant.

`\f`rac and `\t`imes that a string escape turned into a form feed and a tab, backslashes doubled, and the blank missing
after a command (`\quadx_2`).
"""

import re

from rewards.grader.reading.atoms import ACCENTS, CONSTANT_COMMANDS, GREEK, UNSUPPORTED
from rewards.grader.reading.grammar import DIVIDED, RELATIONS, SET_OPERATIONS, TIMES
from rewards.grader.reading.tokens import FUNCTIONS

_ESCAPES = {"\a": "a", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v"}
_ESCAPED = re.compile(
    r"\a(?=(?:lpha|pprox|ngle|st)(?![a-z]))|[\b](?=egin\s*\{|inom|oxed|eta(?![a-z])|ar\s*\{)|\f(?=rac|orall)"
    r"|\n(?=(?:eq|abla|otin)(?![a-z]))|\r(?=(?:ight|angle|floor|ceil|ho)(?![a-z]))"
    r"|\t(?=riangle|ext\s*\{|imes(?![a-z])|heta(?![a-z])|frac|binom)|\v(?=ec(?![a-z])|arnothing|arphi)"
)
_LOST = re.compile(r"(?<![\\A-Za-z])([dt]?frac)(?=\s*\{)")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_DOUBLED = re.compile(r"\\\\(?=([A-Za-z]{2,})|[{}])")
_ALONE = frozenset(  # commands without an argument in braces
    name.lstrip("\\")
    for names in (CONSTANT_COMMANDS, GREEK, RELATIONS, SET_OPERATIONS, TIMES, DIVIDED, FUNCTIONS)
    for name in names
    if name.startswith("\\") or name in FUNCTIONS
) | set(str.split("quad qquad leq geq neq pm mp cdots ldots dots circ degree"))
_KNOWN = _ALONE | {name[1:] for name in (*ACCENTS, *UNSUPPORTED)} | set(
    str.split(
        "frac dfrac tfrac cfrac sqrt binom dbinom tbinom text textbf mathrm mathbf mathbb mathit operatorname mbox "
        "left right begin end boxed triangle pmod bmod mod mid big Big Rightarrow implies hline displaystyle overline"
    )
)  # fmt: skip
_OTHERS = frozenset(
    str.split("pmb top inf int num neg")
)  # commands of LaTeX's that look like a shorter one and a letter


def repaired(text: str) -> str:
    """The text with what was damaged put right; anything ambiguous stays as it is."""
    if "\\" in text:
        if r"\\begin" in text:
            text = text.replace("\\\\", "\\")
        elif r"\begin" not in text:
            text = _DOUBLED.sub(lambda match: "\\" if not match[1] or match[1] in _KNOWN else match.group(), text)
        text = _COMMAND.sub(_parted, text)
    return _LOST.sub(r"\\\1", _ESCAPED.sub(lambda match: "\\" + _ESCAPES[match.group()], text))


def _parted(match: re.Match[str]) -> str:
    """`\\quadx` as `\\quad x`: an unknown command that is a known one and a letter, after a space any letters."""
    name = match[1]
    if name in _KNOWN or name in _OTHERS:
        return match.group()
    for space in ("qquad", "quad"):
        if name.startswith(space):
            rest = name[len(space) :]
            return f"\\{space} " + (f"\\text{{{rest}}}" if rest in ("and", "or") else rest)
    return f"\\{name[:-1]} {name[-1]}" if name[:-1] in _ALONE else match.group()
