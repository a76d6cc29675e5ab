"""Which tokens of a sequence are thinking, from its think markers.

The last marker in the prompt decides how generation starts. After `<think>`, the first generated token is thinking.
After `</think>` (a chat template that closes thinking), none is until the model generates `<think>` itself. Without any
marker, `think_start` decides. A generated `</think>` ends thinking; a later `<think>` opens it again.

A marker is one token of the tokenizer, or text that its tokens spell in any way: `.</think>"` may be `.</`, `think`,
`>"`. `PhaseAutomaton` follows both in one step a token.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

START, END = "<think>", "</think>"

Letter = int | str  # a token that stands for itself, or a character of what tokens spell
Pattern = tuple[Letter, ...]


class Tokenizer(Protocol):
    """What is asked of a tokenizer of transformers or vLLM, whose signatures differ beside it."""

    @property
    def encode(self) -> Any: ...

    @property
    def decode(self) -> Any: ...

    @property
    def get_vocab(self) -> Any: ...

    @property
    def get_added_vocab(self) -> Any: ...


class MissingMarkersError(ValueError):
    """The tokenizer cannot spell the think markers."""


@dataclass(frozen=True)
class ThinkMarkers:
    """What opens and closes the think part; a bare token id stands for itself.

    Attributes:
        start, end: patterns of letters, any of each.
        spelled: the tokens in which a part of a marker may lie, with the characters that they spell; every other token
            is a letter of its own.
    """

    start: tuple[Pattern, ...]
    end: tuple[Pattern, ...]
    spelled: tuple[tuple[int, Pattern], ...] = ()

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if isinstance(value, int):
                object.__setattr__(self, name, ((value,),))
            elif not value or not all(value):
                raise ValueError(f"a think marker needs at least one token, got {name}={value!r}")

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Tokenizer | None, start: str | Sequence[int] = START, end: str | Sequence[int] = END
    ) -> "ThinkMarkers":
        """Markers given as text or as token ids. Raises MissingMarkersError if the tokenizer cannot spell a text."""
        patterns: dict[str, Pattern] = {}
        for key, marker in (("start", start), ("end", end)):
            if not isinstance(marker, str):
                patterns[key] = tuple(marker)
            elif tokenizer is None:
                raise MissingMarkersError(
                    f"there is no tokenizer to spell {marker!r}: name led_{key}_marker by its token ids"
                )
            else:
                patterns[key] = spelling(tokenizer, marker, f"led_{key}_marker")
        texts = tuple(p for p in patterns.values() if isinstance(p[0], str))
        spelled = parts_of(tokenizer, texts) if tokenizer is not None and texts else ()
        return cls((patterns["start"],), (patterns["end"],), spelled)

    @cached_property
    def automaton(self) -> "PhaseAutomaton":
        return PhaseAutomaton(self)

    def thinking_after(self, token_ids: Sequence[int], unmarked: bool) -> bool:
        """Whether the token after `token_ids` is thought; `unmarked` answers for a sequence without markers."""
        return self.automaton.thinks(self.automaton.state_after(token_ids, unmarked))

    def thinking_mask(self, prompt: Sequence[int], completion: Sequence[int], unmarked: bool = True) -> list[bool]:
        """For each completion token, whether it was sampled while thinking. The `</think>` itself is thinking."""
        automaton = self.automaton
        state = automaton.state_after(prompt, unmarked)
        mask = []
        for token in completion:
            mask.append(automaton.thinks(state))
            state = automaton.step(state, token)
        return mask


class PhaseAutomaton:
    """Thinking phase as a finite automaton over tokens: Aho and Corasick's (1975) for both markers, times the phase.

    Attributes:
        nodes: states of each phase. States from `nodes` on think.
        moves: by state, the next state after each token that leads anywhere but back to the phase's first state.
    """

    def __init__(self, markers: ThinkMarkers):
        patterns = [(pattern, True) for pattern in markers.start] + [(pattern, False) for pattern in markers.end]
        prefixes = list(dict.fromkeys([(), *(p[:i] for p, _ in patterns for i in range(1, len(p) + 1))]))
        number = {prefix: i for i, prefix in enumerate(prefixes)}
        self.nodes = len(prefixes)
        self.longest = max(len(pattern) for pattern, _ in patterns)

        def after(prefix: Pattern, thinking: bool, letters: Pattern) -> int:
            for letter in letters:
                read = (*prefix, letter)
                done = [(len(p), opens) for p, opens in patterns if read[-len(p) :] == p]
                thinking = max(done)[1] if done else thinking
                prefix = next(read[i:] for i in range(len(read) + 1) if read[i:] in number)
            return number[prefix] + self.nodes * thinking

        spelled = {token: (token,) for p, _ in patterns for token in p if isinstance(token, int)} | dict(
            markers.spelled
        )
        self.moves = [
            {
                token: state
                for token, letters in spelled.items()
                if (state := after(prefix, thinking, letters)) != self.nodes * thinking
            }
            for thinking in (False, True)
            for prefix in prefixes
        ]

    def thinks(self, state: int) -> bool:
        return state >= self.nodes

    def step(self, state: int, token: int) -> int:
        return self.moves[state].get(token, self.nodes * self.thinks(state))

    def state_after(self, token_ids: Sequence[int], unmarked: bool) -> int:
        """State after a whole sequence that starts without a marker."""
        if self.longest == 1:  # the last marker decides: look from the end
            decides = self.moves[0].keys() | self.moves[self.nodes].keys()
            for token in reversed(token_ids):
                if token in decides:
                    return self.step(0, token)
            return self.nodes * unmarked
        state = self.nodes * unmarked
        for token in token_ids:
            state = self.step(state, token)
        return state


def spelling(tokenizer: Any, marker: str, key: str) -> Pattern:
    """The added token that is `marker`, or the characters that its tokens spell, as the tokenizer writes characters.

    A byte-level tokenizer writes each byte as a character of its own, and a SentencePiece one spaces as `▁`.

    Raises:
        MissingMarkersError: the tokenizer's tokens do not spell the marker; names `key`.
    """
    added = tokenizer.get_added_vocab()  # found in text before anything else, whatever stands around them
    if marker in added:
        return (added[marker],)
    texts = _texts(tokenizer, len(tokenizer))
    try:
        ids = list(tokenizer.encode(marker, add_special_tokens=False))
        letters = tuple(letter for token in ids for letter in texts[token])
        spells = marker in tokenizer.decode(ids)
    except Exception:  # the tokenizers package raises a plain one for text without an unknown token
        spells, letters = False, ()
    if not spells or not letters:
        raise MissingMarkersError(
            f"the tokenizer cannot spell {marker!r}: decoding by thinking phase needs think markers, as one token or "
            f"several; name others with led_start_marker and led_end_marker (here it is {key})"
        )
    return letters[1:] if letters[0] in "▁Ġ" and not marker[0].isspace() else letters  # a space is put before text


def parts_of(tokenizer: Any, markers: Sequence[Pattern]) -> tuple[tuple[int, Pattern], ...]:
    """The tokens in which a part of a marker may lie, with the characters that they spell."""
    wholes = ["".join(map(str, marker)) for marker in markers]
    within = {whole[i:j] for whole in wholes for i in range(len(whole)) for j in range(i + 1, len(whole) + 1)}
    begins = tuple(whole[:i] for whole in wholes for i in range(1, len(whole) + 1))
    ends = tuple(whole[i:] for whole in wholes for i in range(len(whole)))
    found = []
    for token, text in _texts(tokenizer, len(tokenizer)).items():
        if text in within or text.endswith(begins) or text.startswith(ends) or any(whole in text for whole in wholes):
            found.append((token, tuple(text)))
    return tuple(sorted(found))


@lru_cache(maxsize=8)
def _texts(tokenizer: Any, size: int) -> dict[int, str]:
    """What each token spells. `size` of the tokenizer: tokens may be added to it."""
    return {token: _text_of(text) for text, token in tokenizer.get_vocab().items()}


def _text_of(token: str) -> str:
    """Its own text or, of a byte token of SentencePiece (`<0x3E>`), that byte as a character."""
    if token.startswith("<0x") and (byte := re.fullmatch(r"<0x([0-9A-F]{2})>", token)):
        value = int(byte[1], 16)
        return chr(value) if value < 128 else chr(0xE000 + value)
    return token
