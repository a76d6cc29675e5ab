"""The text of completions, conversational or plain, and its part after the thinking."""

from collections.abc import Sequence
from typing import Any

THINK_START, THINK_END = "<think>", "</think>"


def completion_texts(completions: Sequence[Any]) -> list[str]:
    """The assistant's text of each completion: a plain string, or the last message of a conversation."""
    return [_text(completion) for completion in completions]


def _text(completion: Any) -> str:
    """The text, "" where there is none: a completion of another shape is no reason to lose the others."""
    if isinstance(completion, str):
        return completion
    message = completion[-1] if isinstance(completion, list) and completion else completion
    if not isinstance(message, dict):
        return ""
    content = _content(message.get("content"))
    thinking = message.get("reasoning_content")  # a chat template that splits the think part off
    return f"{THINK_START}{thinking}{THINK_END}{content}" if thinking else content


def _content(content: Any) -> str:
    if isinstance(content, list):  # content parts: [{"type": "text", "text": ...}]
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


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
        if (
            not prompt or not isinstance(prompt[-1], dict) or prompt[-1].get("role") != "assistant"
        ):  # a finished user turn may quote the marker
            return False
        prompt = prompt[-1].get("content") or ""
    if not isinstance(prompt, str):
        return False
    last = prompt.rstrip()
    return last.endswith(THINK_START) or last.rfind(THINK_START) > last.rfind(THINK_END) >= 0
