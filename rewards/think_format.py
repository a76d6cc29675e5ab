"""Reward for the form of a completion: exactly one closed think part, then a non-empty answer."""

from typing import Any

from rewards.answer_text.completions import THINK_END, THINK_START, completion_texts
from rewards.think_watch import ThinkWatch


class ThinkFormat:
    """1.0 for `<think>thoughts</think>answer`, else 0.0.

    The opening `<think>` may be missing, since a chat template may already have written it into the prompt; it may not
    stand anywhere but at the start. Thoughts and answer must hold more than whitespace unless `allow_empty_thoughts`.
    `prefilled_think` says that the chat template opens `<think>`; the reward does not depend on it, the metric
    `think_format/closed_think_part` and its warning do.
    """

    def __init__(self, allow_empty_thoughts: bool = False, prefilled_think: bool = False) -> None:
        self.__name__ = "think_format"
        self.allow_empty_thoughts = allow_empty_thoughts
        self.prefilled_think = prefilled_think
        self._watch = ThinkWatch("think_format")

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        texts = completion_texts(completions)
        self._watch(texts, self.prefilled_think, columns)
        return [float(self._well_formed(text)) for text in texts]

    def _well_formed(self, text: str) -> bool:
        body = text.lstrip().removeprefix(THINK_START)
        if THINK_START in body or body.count(THINK_END) != 1:
            return False
        thoughts, _, answer = body.partition(THINK_END)
        return bool(answer.strip()) and (self.allow_empty_thoughts or bool(thoughts.strip()))
