"""Matching braces of LaTeX."""

import re

_TOKEN = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is no brace


def group_end(text: str, start: int) -> int | None:
    """Position after the brace that closes the one at `start`; None if it is never closed."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0 and token[0] in "{}":
            return token.end()
    return None
