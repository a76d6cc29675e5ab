"""Which tokens of a sequence are thinking, from its think markers.

The last marker in the prompt decides how generation starts: `<think>` thinks from the first generated token, `</think>`
(a template that closes thinking) does not until the model opens a think part itself, no marker at all follows
`think_start`. `</think>` ends thinking once generated; a later `<think>` opens it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

START, END = "<think>", "</think>"


class Tokenizer(Protocol):
    def convert_tokens_to_ids(self, tokens: str) -> Any: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> Any: ...


class MissingMarkersError(ValueError):
    """The tokenizer has no think tokens."""


@dataclass(frozen=True)
class ThinkMarkers:
    """Token ids of the think markers."""

    start: int
    end: int

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer, start: str = START, end: str = END) -> "ThinkMarkers":
        """Raises MissingMarkersError if a marker is not one token of the tokenizer."""
        ids = []
        for marker in (start, end):
            token = tokenizer.convert_tokens_to_ids(marker)
            if token is None or tokenizer.convert_ids_to_tokens([token]) != [marker]:  # unknown tokens map to <unk>
                raise MissingMarkersError(
                    f"the tokenizer has no token {marker!r}: decoding by thinking phase needs a reasoning model whose "
                    f"tokenizer holds {start!r} and {end!r} as single tokens"
                )
            ids.append(token)
        return cls(*ids)

    def thinking_after(self, token_ids: Sequence[int], unmarked: bool) -> bool:
        """Whether the token after `token_ids` is thought; `unmarked` answers for a sequence without markers."""
        for token in reversed(token_ids):
            if token == self.start or token == self.end:
                return token == self.start
        return unmarked

    def thinking_mask(self, prompt: Sequence[int], completion: Sequence[int], unmarked: bool = True) -> list[bool]:
        """For each completion token, whether it was sampled while thinking. The `</think>` itself is thinking."""
        thinking = self.thinking_after(prompt, unmarked)
        mask = []
        for token in completion:
            mask.append(thinking)
            if token == self.start or token == self.end:
                thinking = token == self.start
        return mask
