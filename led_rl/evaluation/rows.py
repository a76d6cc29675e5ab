"""Rows of an evaluation's files as they are read back: what was edited or damaged is an error that names the line."""

from pathlib import Path
from typing import Any

from led_rl.decoding import UserError

Record = dict[str, Any]
NUMBER = (int, float)
NOTHING = type(None)
OPTIONAL = object()
PLACE: dict[str, Any] = {"checkpoint": str, "benchmark": (str, OPTIONAL), "arm": str, "chunk": int}
# key -> types of its value, or [types] of the values of its list; OPTIONAL among them: older versions did not write it
ROWS: dict[str, dict[str, Any]] = {
    "chunk": {**PLACE, "problems": int, "wall_s": (*NUMBER, NOTHING), "tokens": int},
    "problem": {
        **PLACE,
        "problem": str,
        "rewards": [(*NUMBER, NOTHING)],
        "correct": [(bool, NOTHING)],
        "extracted": [(str, NOTHING, OPTIONAL)],
        "thinking_tokens": [(int,)],
        "answer_tokens": [(int,)],
        "finished": [(bool,)],
        "gold": (str, NOTHING, OPTIONAL),
    },
    "completion": {
        **PLACE,
        "problem": str,
        "sample": int,
        "seed": (int, OPTIONAL),
        "prompt": str,
        "text": str,
        "token_ids": [(int, OPTIONAL)],
        "thinking": str,
        "explored": (str, OPTIONAL),
        "finished": bool,
        "statistics": (dict, NOTHING, OPTIONAL),
    },
}
LARGEST, LARGEST_TOKEN = 2**63 - 1, 2**31 - 1


class EvaluationError(UserError):
    """An evaluation that cannot start or go on: what was given, and what is allowed."""


def check_row(row: Any, path: Path, number: int) -> Record:
    """The row, if `led-rl evaluate` could have written it.

    Raises:
        EvaluationError: names the file, the line and the key.
    """
    wrong = _flaw(row)
    if wrong is not None:
        raise EvaluationError(f"{path} line {number} is no row that led-rl evaluate writes: {wrong}")
    return row


def _flaw(row: Any) -> str | None:
    keys = ROWS.get(row["kind"]) if isinstance(row, dict) and isinstance(row.get("kind"), str) else None
    if keys is None:
        return f"its kind is none of {', '.join(ROWS)}"
    samples = None
    for key, kinds in keys.items():
        listed = isinstance(kinds, list)
        allowed = kinds[0] if listed else kinds if isinstance(kinds, tuple) else (kinds,)
        if key not in row and OPTIONAL in allowed:
            continue
        types = tuple(kind for kind in allowed if kind is not OPTIONAL)
        value = row.get(key)
        values = value if listed else [value]
        if not isinstance(values, list) or not all(_fits(each, types) for each in values):
            return f"{key!r} is missing" if key not in row else f"{key!r} is {value!r:.60}"
        if listed and row["kind"] == "problem":
            samples = len(values) if samples is None else samples
            if not values or len(values) != samples:
                return f"{key!r} holds {len(values)} values, and 'rewards' {len(row['rewards'])}"
    if row.get("token_ids"):
        tokens = row["token_ids"]
        if max(tokens) > LARGEST_TOKEN:
            return f"'token_ids' holds {max(tokens)}"
        for key in ("thinking", "explored"):
            if row.get(key) and len(row[key]) != len(tokens):
                return f"{key!r} is of {len(row[key])} tokens, and 'token_ids' of {len(tokens)}"
    return None


def _fits(value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, int) and not 0 <= value <= LARGEST:
        return float in types  # a reward; counts, places and token ids are not negative
    return isinstance(value, types)
