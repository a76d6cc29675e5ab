"""The program in a completion."""

import re

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n`]*$", re.M)
LANGUAGES = ("", "python", "python3", "py")


def last_program(text: str) -> str | None:
    """The text of the last closed code block of Python, or of no language; None if there is none.

    A block that is not closed was cut off, and is no program.
    """
    found, opened = None, None
    for fence in _FENCE.finditer(text):
        marks, language = fence[1], fence[2].lower()
        if opened is None:
            opened = marks, language, fence.end()
        elif not language and marks[0] == opened[0][0] and len(marks) >= len(opened[0]):
            if opened[1] in LANGUAGES:
                found = text[opened[2] + 1 : fence.start()]
            opened = None
    return found
