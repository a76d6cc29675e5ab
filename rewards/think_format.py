"""Reward for the form of a completion: exactly one closed think part, then a non-empty answer."""

from typing import Any

from rewards.answer_text.completions import THINK_END, THINK_START, completion_texts


class ThinkFormat:
    """1.0 for `<think>thoughts</think>answer`, else 0.0.

    The opening `<think>` may be missing, since a chat template may already have written it into the prompt; it may not
    stand anywhere but at the start. Thoughts and answer must hold more than whitespace unless `allow_empty_thoughts`.
    """

    def __init__(self, allow_empty_thoughts: bool = False) -> None:
        self.__name__ = "think_format"
        self.allow_empty_thoughts = allow_empty_thoughts

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        return [float(self._well_formed(text)) for text in completion_texts(completions)]

    def _well_formed(self, text: str) -> bool:
        body = text.lstrip().removeprefix(THINK_START)
        if THINK_START in body or body.count(THINK_END) != 1:
            return False
        thoughts, _, answer = body.partition(THINK_END)
        return bool(answer.strip()) and (self.allow_empty_thoughts or bool(thoughts.strip()))
