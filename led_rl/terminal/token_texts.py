"""The text of every token of a completion, so that single tokens can be marked."""

from collections.abc import Sequence
from typing import Any


class TokenTexts:
    """Token ids -> texts that add up to the completion's text, special tokens included."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._alone: dict[int, str] = {}

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """One text per token. A character of several tokens stands with its last one, the others are empty."""
        new = [token for token in dict.fromkeys(token_ids) if token not in self._alone]
        if new:
            texts = self._tokenizer.batch_decode([[token] for token in new], skip_special_tokens=False)
            self._alone.update(zip(new, texts, strict=True))
        pieces = [self._alone[token] for token in token_ids]
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        whole = self._tokenizer.decode(list(token_ids), **options)
        return pieces if "".join(pieces) == whole else self._streamed(token_ids, whole)

    def _streamed(self, token_ids: Sequence[int], whole: str) -> list[str]:
        from tokenizers.decoders import DecodeStream

        core = getattr(self._tokenizer, "backend_tokenizer", None)
        if core is None:  # a tokenizer without a fast implementation
            return self._grown(token_ids)
        stream = DecodeStream(skip_special_tokens=False)
        pieces = [stream.step(core, token) or "" for token in token_ids]
        if rest := whole[len("".join(pieces)) :]:
            pieces[-1] += rest  # the half of a character at which a completion was cut off
        return pieces

    def _grown(self, token_ids: Sequence[int]) -> list[str]:
        """By decoding every beginning: quadratic in the length."""
        pieces, before = [], ""
        for end in range(1, len(token_ids) + 1):
            text = self._tokenizer.decode(list(token_ids[:end]), skip_special_tokens=False)
            if text.endswith("�") and end < len(token_ids):
                text = before
            pieces.append(text[len(before) :])
            before = text
        return pieces
