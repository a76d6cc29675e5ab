"""Which tokens of a sequence are thinking, from its think markers.

The last marker in the prompt decides how generation starts: `<think>` thinks from the first generated token, `</think>`
(a template that closes thinking) does not until the model opens a think part itself, no marker at all follows
`think_start`. `</think>` ends thinking once generated; a later `<think>` opens it again. A marker is one token of the
tokenizer, or several; `PhaseAutomaton` follows both in one step a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

START, END = "<think>", "</think>"
# A tokenizer may merge a marker's edge with its neighbours (".</think>\n"): these surroundings are looked at.
BEFORE = ("", "\n", " ", *"""!"$%')*,.:;>?]`|}""")
AFTER = ("", "\n", "\n\n", "\r\n", " ", "<", "</", "**", "\\", "\\[", *"""#$(*,-.:[`""")

Sequences = tuple[tuple[int, ...], ...]


class Tokenizer(Protocol):
    def convert_tokens_to_ids(self, tokens: str) -> Any: ...

    def convert_ids_to_tokens(self, ids: list[int]) -> Any: ...


class MissingMarkersError(ValueError):
    """The tokenizer cannot spell the think markers."""


@dataclass(frozen=True)
class ThinkMarkers:
    """Token sequences that open and close the think part, any of each; a bare token id stands for itself."""

    start: Sequences
    end: Sequences

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if isinstance(value, int):
                object.__setattr__(self, name, ((value,),))
            elif not value or not all(value):
                raise ValueError(f"a think marker needs at least one token, got {name}={value!r}")

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Tokenizer, start: str | Sequence[int] = START, end: str | Sequence[int] = END
    ) -> "ThinkMarkers":
        """Markers given as text or as token ids. Raises MissingMarkersError if the tokenizer cannot spell a text."""
        return cls(*(spellings(tokenizer, m) if isinstance(m, str) else (tuple(m),) for m in (start, end)))

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
        alphabet: the distinct tokens of the markers; every other token is one further symbol.
        goto: (states, len(alphabet) + 1) next state by symbol. States from `nodes` on think.
        nodes: states of each phase.
    """

    def __init__(self, markers: ThinkMarkers):
        patterns = [(pattern, True) for pattern in markers.start] + [(pattern, False) for pattern in markers.end]
        self.alphabet = tuple(dict.fromkeys(token for pattern, _ in patterns for token in pattern))
        self.symbol = {token: i for i, token in enumerate(self.alphabet)}
        prefixes = list(dict.fromkeys([(), *(p[:i] for p, _ in patterns for i in range(1, len(p) + 1))]))
        self.nodes = len(prefixes)
        number = {prefix: i for i, prefix in enumerate(prefixes)}

        def longest_prefix(tokens: tuple[int, ...]) -> tuple[int, ...]:
            return next(tokens[i:] for i in range(len(tokens) + 1) if tokens[i:] in number)

        def phase_after(tokens: tuple[int, ...], thinking: bool) -> bool:
            done = [(len(p), opens) for p, opens in patterns if tokens[-len(p) :] == p]
            return max(done)[1] if done else thinking

        self.goto = [
            [
                number[longest_prefix((*prefix, token))] + self.nodes * phase_after((*prefix, token), thinking)
                for token in self.alphabet
            ]
            + [self.nodes * thinking]
            for thinking in (False, True)
            for prefix in prefixes
        ]
        self.longest = max(len(pattern) for pattern, _ in patterns)

    def thinks(self, state: int) -> bool:
        return state >= self.nodes

    def step(self, state: int, token: int) -> int:
        return self.goto[state][self.symbol.get(token, len(self.alphabet))]

    def state_after(self, token_ids: Sequence[int], unmarked: bool) -> int:
        """State after a whole sequence that starts without a marker."""
        if self.longest == 1:  # the last marker decides: look from the end
            for token in reversed(token_ids):
                if token in self.symbol:
                    return self.step(0, token)
            return self.nodes * unmarked
        state = self.nodes * unmarked
        for token in token_ids:
            state = self.step(state, token)
        return state


def spellings(tokenizer: Any, marker: str) -> Sequences:
    """Token sequences in which a text with `marker` in it may show the marker: its own token, or its pieces.

    Raises:
        MissingMarkersError: the tokenizer's tokens do not spell the marker.
    """
    token = tokenizer.convert_tokens_to_ids(marker)
    if token is not None and tokenizer.convert_ids_to_tokens([token]) == [marker]:  # unknown tokens map to <unk>
        return ((token,),)
    found: dict[tuple[int, ...], None] = {}
    for before in BEFORE:
        for after in AFTER:
            if pieces := _pieces(tokenizer, before, marker, after):
                found[pieces] = None
    if not found:
        raise MissingMarkersError(
            f"the tokenizer cannot spell {marker!r}: decoding by thinking phase needs think markers, as one token or "
            "several; name others with led_start_marker and led_end_marker"
        )
    return tuple(found)


def _pieces(tokenizer: Any, before: str, marker: str, after: str) -> tuple[int, ...] | None:
    """The tokens that hold `marker` when it stands between `before` and `after`; None if they do not spell it."""
    try:
        encoded = tokenizer(before + marker + after, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError:  # a tokenizer in Python knows no offsets
        if before or after:
            return None
        ids = tuple(tokenizer.encode(marker, add_special_tokens=False))
    else:
        start, end = len(before), len(before) + len(marker)
        spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ids = tuple(token for token, (first, last) in spans if first < end and last > start)
    return ids if ids and marker in tokenizer.decode(list(ids)) else None
