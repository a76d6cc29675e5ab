"""The text of completions, conversational or plain, and its part after the thinking."""

from collections.abc import Sequence
from typing import Any

THINK_START, THINK_END = "<think>", "</think>"


def completion_texts(completions: Sequence[Any]) -> list[str]:
    """The assistant's text of each completion: a plain string, or the last message of a conversation."""
    return [_text(completion) for completion in completions]


def _text(completion: Any) -> str:
    if isinstance(completion, str):
        return completion
    if isinstance(completion, dict):
        completion = [completion]
    if not completion:
        return ""
    message = completion[-1]
    content = message.get("content") or ""
    if isinstance(content, list):  # content parts: [{"type": "text", "text": ...}]
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    thinking = message.get("reasoning_content")  # a chat template that splits the think part off
    return f"{THINK_START}{thinking}{THINK_END}{content}" if thinking else content


def after_thinking(text: str, prefilled: bool) -> str | None:
    """The text after the last `</think>`; None if a think part is still open.

    `prefilled`: the chat template opened the think part, so a text without `</think>` has never closed it.
    """
    end = text.rfind(THINK_END)
    if end < 0:
        return None if prefilled or THINK_START in text else text
    final = text[end + len(THINK_END) :]
    return None if THINK_START in final else final


def prompt_opens_thinking(prompt: Any) -> bool:
    """Whether a prompt ends inside a think part: `<think>` stands open in the plain prompt or its last message."""
    if isinstance(prompt, list):
        if not prompt or prompt[-1].get("role") != "assistant":  # a finished user turn may quote the marker
            return False
        prompt = prompt[-1].get("content") or ""
    if not isinstance(prompt, str):
        return False
    last = prompt.rstrip()
    return last.endswith(THINK_START) or last.rfind(THINK_START) > last.rfind(THINK_END) >= 0
