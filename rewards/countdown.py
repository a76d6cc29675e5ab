"""Reward of the countdown task: each number used exactly once, combined by + - * to the target."""

import ast
import operator
import re
from collections.abc import Sequence
from typing import Any

from rewards.answer_text.braces import group_end
from rewards.answer_text.completions import after_thinking, completion_texts

BOX = "\\boxed{"
LONGEST_EXPRESSION = 100  # characters; also bounds the depth of the parse tree
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def countdown(
    completions: Sequence[str | list[dict[str, Any]]],
    numbers: Sequence[list[int] | None],
    target: Sequence[int | None],
    **columns: Any,
) -> list[float | None]:
    """1.0 for each completion whose answer uses every number of its row exactly once and equals the row's target.

    The answer is the last `\\boxed{...}` after the last `</think>`: non-negative integers, + - * and parentheses, with
    any spacing. A completion that never closes its thinking, or that answers anything else, gets 0.0; a row without
    usable numbers and target gets None, which TRL leaves out of the reward.

    Args:
        completions: strings, or conversations whose last message is the answer.
        numbers: the numbers of each row.
        target: the target of each row.
        columns: TRL's other columns; `log_extra` is given the extracted answers.
    """
    answers = [boxed_answer(after_thinking(text, prefilled=True) or "") for text in completion_texts(completions)]
    if log_extra := columns.get("log_extra"):
        log_extra("extracted", [answer or "" for answer in answers])
    return [_reward(*row) for row in zip(answers, numbers, target, strict=True)]


def _reward(answer: str | None, numbers: Any, target: Any) -> float | None:
    usable = isinstance(numbers, (list, tuple)) and len(numbers) > 0 and all(map(_is_integer, [*numbers, target]))
    if not usable:
        return None
    return float(answer is not None and solves(answer, numbers, target))


def boxed_answer(text: str) -> str | None:
    """The content of the last `\\boxed{...}`, by matching braces; None if there is none or it is never closed."""
    opened = text.rfind(BOX) + len(BOX) - 1
    closed = group_end(text, opened) if opened >= len(BOX) - 1 else None
    return None if closed is None else text[opened + 1 : closed - 1].strip()


def solves(expression: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the expression uses each of `numbers` exactly once and equals `target`."""
    if len(expression) > LONGEST_EXPRESSION or not re.fullmatch(r"[0-9+\-*() \n\t]+", expression):
        return False
    try:
        tree = ast.parse(" ".join(expression.split()), mode="eval")
        used: list[int] = []
        return _value(tree.body, used) == target and sorted(used) == sorted(numbers)
    except (SyntaxError, _NotAllowedError):
        return False


class _NotAllowedError(Exception):
    """The expression holds something other than integers, + - * and parentheses."""


def _value(node: ast.AST, used: list[int]) -> int:
    """The value of a parsed expression; appends its integers to `used`."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise _NotAllowedError


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
