"""Reward for multiple-choice answers given as a letter (GPQA)."""

import re
from typing import Any

from rewards.answer_text.boxes import final_boxes
from rewards.answer_text.completions import after_thinking, completion_texts, prompt_opens_thinking
from rewards.answer_text.letters import gold_letter, letter_of

_STATEMENT = re.compile(
    r"(?:answer|option|choice)\b[\s*_]*(?:\s+(?:is|would be|must be|should be))?[\s:*_$]*"
    r"(?:(?:option|choice|answer)\s+)?(?:\\boxed\s*)?[({\[*_$\s]*(?:\\text(?:bf)?\s*\{)?\(?([A-Za-z])\b(?![a-z'])",
    re.I,
)
_NEGATED = re.compile(r"\b(?:not|n't|never|neither|cannot)\b[^.\n]{0,20}$", re.I)


class ChoiceLetter:
    """1.0 for the right letter, 0.0 for a wrong, missing or second letter, None when the gold is not a letter.

    The letter is read after the last `</think>`: from the last box; without a box, unless `box_only`, from the last
    "the answer is (C)" or "Answer: C" that is not negated, or from a text that is nothing but the letter.

    Args:
        gold_column: dataset column of the gold letters.
        letters: letters that can be chosen; the English article "A" makes prose ambiguous, so only statements count.
        box_only: read boxes only.
        prefilled_think: the chat template opens `<think>`.
    """

    def __init__(
        self,
        gold_column: str = "answer",
        letters: str = "ABCDEFGHIJ",
        box_only: bool = False,
        prefilled_think: bool = False,
    ) -> None:
        if not letters or not letters.isalpha():
            raise ValueError(f"letters must be letters, got {letters!r}")
        self.__name__ = "choice_letter"
        self.gold_column = gold_column
        self.letters = letters.upper()
        self.box_only = box_only
        self.prefilled_think = prefilled_think

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        if self.gold_column not in columns:
            raise KeyError(f"choice_letter needs the dataset column {self.gold_column!r} with the gold letters")
        golds = [gold_letter(gold) for gold in columns[self.gold_column]]
        prompts = columns.get("prompts") or [None] * len(completions)
        chosen = [
            self.chosen(text, prompt) for text, prompt in zip(completion_texts(completions), prompts, strict=True)
        ]
        rewards = [None if gold is None else float(gold == letter) for gold, letter in zip(golds, chosen, strict=True)]
        if log_extra := columns.get("log_extra"):
            log_extra("chosen_letter", [letter or "" for letter in chosen])
        return rewards

    def chosen(self, text: str, prompt: Any = None) -> str | None:
        """The letter that a completion settles on, or None."""
        final = after_thinking(text, self.prefilled_think or prompt_opens_thinking(prompt))
        if final is None:
            return None
        boxes = final_boxes(final[-50_000:])
        if boxes:
            letters = {self._in_choices(letter_of(box)) for box in boxes}
            return letters.pop() if len(letters) == 1 else None
        if self.box_only:
            return None
        whole = self._in_choices(letter_of(final)) if len(final.strip()) <= 200 and _is_option(final) else None
        if whole:
            return whole
        found = None
        for match in _STATEMENT.finditer(final[-5_000:]):
            letter = self._in_choices(match.group(1).upper())
            before, behind = final[-5_000:][: match.end()], final[-5_000:][match.end() :]
            if letter and not _NEGATED.search(before[:-1]) and not re.match(r"\s+[a-z]{2,}", behind):
                found = letter
        return found

    def _in_choices(self, letter: str | None) -> str | None:
        return letter if letter is not None and letter in self.letters else None


def _is_option(text: str) -> bool:
    return bool(re.match(r"^[\s*_$]*(?:\(\s*[A-Za-z]\s*\)|\[?[A-Za-z]\]?(?:[.):]|[\s*_$]*$))", text))
