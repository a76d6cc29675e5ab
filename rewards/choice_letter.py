"""Reward for multiple-choice answers given as a letter (GPQA)."""

from typing import Any

from rewards.answer_text.boxes import final_boxes
from rewards.answer_text.choices import boxed_letter, chosen_letter
from rewards.answer_text.completions import after_thinking, completion_texts, prompt_opens_thinking
from rewards.answer_text.letters import gold_letter
from rewards.think_watch import ThinkWatch

LONGEST_ANSWER_TEXT = 50_000  # characters after the think part that are read


class ChoiceLetter:
    """1.0 for the right letter, 0.0 for a wrong, missing or second letter, None when the gold is not one of `letters`.

    The letter is read after the last `</think>`, from what the text states at its end: a box, `<answer>C</answer>`,
    "the answer is (C)", "option C is correct", "therefore C", or a last line that is nothing but the letter. A letter
    that is negated, ruled out, supposed or one of a list earns nothing (rewards.answer_text.choices has the rules).

    Args:
        gold_column: dataset column of the gold letters.
        letters: letters that can be chosen. Only statements count, since prose also holds the article "A".
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
        self._watch = ThinkWatch("choice_letter")

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        if self.gold_column not in columns:
            raise KeyError(f"choice_letter needs the dataset column {self.gold_column!r} with the gold letters")
        golds = [self._in_choices(gold_letter(gold)) for gold in columns[self.gold_column]]
        prompts = columns.get("prompts") or [None] * len(completions)
        texts = completion_texts(completions)
        self._watch(texts, self.prefilled_think, columns)
        chosen = [self.chosen(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]
        rewards = [None if gold is None else float(gold == letter) for gold, letter in zip(golds, chosen, strict=True)]
        if log_extra := columns.get("log_extra"):
            log_extra("chosen_letter", [letter or "" for letter in chosen])
        return rewards

    def chosen(self, text: str, prompt: Any = None) -> str | None:
        """The letter that a completion settles on, or None."""
        final = after_thinking(text, self.prefilled_think or prompt_opens_thinking(prompt))
        if final is None:
            return None
        final = final[-LONGEST_ANSWER_TEXT:]
        if self.box_only:
            return self._in_choices(boxed_letter(final_boxes(final)))
        return chosen_letter(final, self.letters)

    def _in_choices(self, letter: str | None) -> str | None:
        return letter if letter is not None and letter in self.letters else None
