"""How many completions close their think part: a metric, and one warning when none of a batch does.

A think part that is never closed earns 0. A batch in which that happens to all completions has no signal, and the cause
is mostly a limit on tokens or a stop sequence, which a flat reward of 0 does not show.
"""

import logging
from collections.abc import Sequence
from typing import Any

from rewards.answer_text.completions import THINK_END, THINK_START, after_thinking, prompt_opens_thinking

LOG = logging.getLogger(__name__)


class ThinkWatch:
    """Logs `<reward>/closed_think_part`, the share of closed think parts among the completions that think."""

    def __init__(self, reward: str) -> None:
        self.reward = reward
        self.warned = False

    def __call__(self, texts: Sequence[str], prefilled: bool, columns: dict[str, Any]) -> None:
        """`prefilled`: the chat template opens the think part. Logs nothing where no completion thinks."""
        prompts = columns.get("prompts") or [None] * len(texts)
        closed = [
            after_thinking(text, prefilled=True) is not None
            for text, prompt in zip(texts, prompts, strict=True)
            if prefilled or THINK_START in text or THINK_END in text or prompt_opens_thinking(prompt)
        ]
        if not closed:
            return
        if log_metric := columns.get("log_metric"):
            log_metric(f"{self.reward}/closed_think_part", sum(closed) / len(closed))
        if not any(closed) and len(closed) > 1 and not self.warned:
            self.warned = True
            LOG.warning(
                "%s: none of the %d completions of a batch that think closed its think part, so all of them earn 0; "
                "is max_completion_length too short, or %s not what this model writes? (said once; see the metric "
                "%s/closed_think_part)",
                *(self.reward, len(closed), THINK_END, self.reward),
            )
