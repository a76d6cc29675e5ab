"""Per-request decoding state on the device: one slot a request, updated in the decode loop without a host sync."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from led_rl.decoding import AGGREGATIONS, DecodingParams, decoding_of
from led_rl.methods.properties import DECODINGS
from led_rl.sampler.carried import Carried
from led_rl.sampler.columns import (
    AGGREGATION,
    ALWAYS,
    COIN,
    DECODING,
    DEPTH,
    EXPLOIT,
    GREEDY,
    KEY,
    KNOWN,
    NEVER,
    NORMED,
    NUMBER,
    ORDER,
    K,
)
from led_rl.sampler.uniforms import key_of
from led_rl.sampler.working_rows import Working
from led_rl.thinking import PhaseAutomaton, ThinkMarkers

MOST_MARKERS = 64  # distinct think markers followed at a time, unless admitted requests use more
_FLAGS = (EXPLOIT, COIN, AGGREGATION, NORMED, GREEDY)


@dataclass(frozen=True)
class Needs:
    """What the admitted requests need of a step: where all agree, the work of telling them apart is left out."""

    decodings: tuple[int, ...]
    k: int  # most candidates of a request
    same_k: bool
    latents: int  # most latent layers of a request
    same_depth: bool
    shared: dict[int, int | None]  # by column: the value that all requests share, or None
    order: tuple[int, ...] | None  # captured layers that all requests read, if they agree


@dataclass
class Slot:
    """Host side of an admitted request."""

    params: DecodingParams
    extra_args: Mapping[str, Any]
    row: list[int]  # of the settings table
    markers: ThinkMarkers | None  # None: it never changes its phase

    @property
    def mixes(self) -> int:
        """The most tokens of a mix that is fed to it; 0: it is fed none."""
        return self.params.soft_top_k if "soft_top_k" in self.params.properties.numbers else 0

    def thinks_after_each(self, token_ids: Sequence[int]) -> list[bool]:
        """Whether it thinks after each token of a sequence from its start."""
        if self.markers is None:
            return [True] * len(token_ids)
        automaton, thinks = self.markers.automaton, []
        state = automaton.nodes * (self.params.think_start == "prompt")
        for token in token_ids:
            state = automaton.step(state, token)
            thinks.append(automaton.thinks(state))
        return thinks


class DecodingSlots:
    """Settings, thinking phase and statistics of up to `count` requests; a spare slot is for rows that decode as usual.

    Attributes:
        settings: (count + 1, columns) int64.
        state: (count + 1,) int64 state in the stacked automata of all think markers in use.
        sums: (count + 1, statistics) float64 of each slot's request so far, but for the batch at work (`at`).
    """

    def __init__(
        self,
        count: int,
        captured_layers: tuple[int, ...],
        num_layers: int,
        statistics: int,
        device: torch.device,
        tied: bool = False,
    ):
        self.captured = captured_layers
        self.num_layers, self.tied = num_layers, tied
        self.device = device
        self.spare = count
        self.settings = torch.zeros(count + 1, ORDER + len(captured_layers), dtype=torch.int64, device=device)
        self.state = torch.zeros(count + 1, dtype=torch.int64, device=device)
        self.sums = torch.zeros(count + 1, statistics, dtype=torch.float64, device=device)
        self.retired = torch.zeros(statistics, dtype=torch.float64, device=device)  # of slots that were taken anew
        self.generation = 0  # grows when requests join or leave
        self.slots: dict[int, Slot] = {}
        self.staged: dict[int, tuple[list[int], int]] = {}
        self.carried: Carried | None = None  # of an engine that changes forward passes
        self.changing: set[int] = set()  # slots of requests whose forward passes are changed
        self.arrived: dict[int, Sequence[int]] = {}  # those admitted since the last step, and their known tokens
        self._needs: dict[tuple[int, ...] | None, Needs] = {}
        self._working: Working | None = None
        self._automata: dict[ThinkMarkers, int] = {}
        self._install_automata()

    def admit(
        self,
        slot: int,
        extra_args: Mapping[str, Any],
        markers: ThinkMarkers | None,
        token_ids: Sequence[int],
        seed: int,
        temperature: float,
        truncation: tuple[int, float, float] = (0, 1.0, 0.0),
    ) -> None:
        """Takes `slot` for a request of which `token_ids` (prompt, and output so far) are known.

        Tokens not known yet (async scheduling leaves -1 placeholders) are followed on the device instead. Without
        markers the request thinks to its end. `truncation`: the request's top-k (0: none), top-p and min-p.
        """
        params = decoding_of(extra_args)
        known = next((i for i, token in enumerate(token_ids) if token < 0), len(token_ids))
        state = ALWAYS
        if not params.think_only:
            markers = None
        if markers is not None:
            unmarked = params.think_start == "prompt"
            state = self._offset(markers) + markers.automaton.state_after(token_ids[:known], unmarked)
        layers = params.layers(self.num_layers, self.tied)
        row = [0] * self.settings.shape[1]
        row[KNOWN], row[DECODING], row[DEPTH] = known, DECODINGS.index(params.decoding), 1 + len(layers)
        row[K], row[EXPLOIT], row[COIN] = params.k, params.exploit, params.draw == "coin"
        row[AGGREGATION], row[NORMED] = AGGREGATIONS.index(params.aggregation), params.normed
        row[GREEDY], row[KEY] = temperature == 0, key_of(seed)
        for i, name in enumerate(params.properties.numbers):
            row[NUMBER + i] = float_bits(getattr(params, name))
        row[ORDER : ORDER + len(layers)] = [self.captured.index(layer) for layer in layers]
        if params.properties.changes_forward:
            assert self.carried is not None, "requests of such decodings are refused by other engines"
            row[K] = max(params.soft_top_k, truncation[0]) if "soft_top_k" in params.properties.numbers else 1
            self.carried.stage(slot, truncation, markers)
            self.changing.add(slot)
            self.arrived[slot] = token_ids[:known]
        self.slots[slot] = Slot(params, extra_args, row, markers)
        self.staged[slot] = row, state
        self._needs.clear()

    def release(self, slot: int) -> None:
        del self.slots[slot]
        self.changing.discard(slot)
        self.arrived.pop(slot, None)
        self.staged[slot] = [0] * self.settings.shape[1], NEVER
        self._needs.clear()

    def flush(self) -> None:
        """Moves what was admitted or released since the last step to the device, in one transfer."""
        self.settle()
        if not self.staged:
            return
        slots = self.to_device(list(self.staged))
        rows = self.to_device([[state, *row] for row, state in self.staged.values()])
        self.state[slots], self.settings[slots] = rows[:, 0], rows[:, 1:]
        self.generation += 1
        self.retired += self.sums[slots].sum(0)
        self.sums[slots] = 0.0
        self.staged.clear()
        if self.carried is not None:
            self.carried.flush()
            self.carried.k = max((self.slots[slot].mixes for slot in self.changing), default=0)

    def needs(self, kinds: tuple[int, ...] | None = None) -> Needs:
        """Of the requests admitted now, at least one, or of those of some decodings.

        Worked out when they change, not at every step.
        """
        if kinds not in self._needs:
            rows = [slot.row for slot in self.slots.values() if kinds is None or slot.row[DECODING] in kinds]
            orders = {tuple(row[ORDER : ORDER + row[DEPTH] - 1]) for row in rows}
            seen = {column: {row[column] for row in rows} for column in (DECODING, K, DEPTH, *_FLAGS)}
            self._needs[kinds] = Needs(
                decodings=tuple(sorted(seen[DECODING])),
                k=max(seen[K]),
                same_k=len(seen[K]) == 1,
                latents=max(seen[DEPTH]) - 1,
                same_depth=len(seen[DEPTH]) == 1,
                shared={column: next(iter(seen[column])) if len(seen[column]) == 1 else None for column in _FLAGS},
                order=next(iter(orders)) if len(orders) == 1 else None,
            )
        return self._needs[kinds]

    @contextmanager
    def only(self, kinds: tuple[int, ...]) -> Iterator[None]:
        """Requests of other decodings stand still meanwhile: they are not drawn, and do not follow their markers."""
        self.flush()
        column = self.settings[:, DECODING]
        others = torch.ones_like(column, dtype=torch.bool)
        for kind in kinds:
            others &= column != kind
        kept = self.state.clone()
        self.state.masked_fill_(others, NEVER)
        yield
        self.settle()
        self.state.copy_(torch.where(others, kept, self.state))

    def at(self, index: Tensor, temperature: Tensor) -> Working:
        """The slots of a batch's rows (rows,), `spare` for rows that decode as usual, to work on in the batch's order.

        Their working copy is kept while the caller hands in the same tensor and no request joins or leaves.
        """
        if self.staged:
            self.flush()
        if self._working is None or self._working.index is not index:
            self.settle()
            self._working = Working(self, index, temperature)
        return self._working

    def settle(self) -> None:
        """Writes the working copy back to the tables."""
        if self._working is not None:
            self.state[self._working.index] = self._working.state
            self.sums[self._working.index] = self._working.sums
            self._working = None

    def state_after(self, state: Tensor, tokens: Tensor, positions: Tensor, known: Tensor) -> Tensor:
        """(rows,) states after the tokens fed in; those of the first `known` tokens were scanned at admission."""
        hit = self.alphabet[state] == tokens[:, None]  # (rows, letters), at most one
        after = self.goto[state, (hit * self.symbols).sum(-1)]
        return torch.where(positions >= known, after, state)

    def thinks_after(self, slots: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """(rows,) bool: whether slots think after the tokens that are about to be fed in. After `settle`."""
        return self.thinks[self.state_after(self.state[slots], tokens, positions, self.settings[slots, KNOWN])]

    def _offset(self, markers: ThinkMarkers) -> int:
        if markers not in self._automata:
            if len(self._automata) >= MOST_MARKERS:
                self._forget_unused_markers()
            self._automata[markers] = len(self.thinks)
            self._install_automata()
        return self._automata[markers]

    def _forget_unused_markers(self) -> None:
        """Drops the automata of no admitted request: clients choose their markers, and the tables must not grow."""
        self.flush()
        before, self._automata = self._automata, {}
        of_slot = {slot: held.markers for slot, held in self.slots.items() if held.markers is not None}
        self._install_automata()
        for markers in dict.fromkeys(of_slot.values()):
            self._offset(markers)
        moved = [self._automata[markers] - before[markers] for markers in of_slot.values()]
        if moved:
            self.state.index_add_(0, self.to_device(list(of_slot)), self.to_device(moved))

    def _install_automata(self) -> None:
        """Stacks the automata of all markers in use, after the two constant states.

        `alphabet` has the tokens that count in each state, and `goto` where they lead, after any other token.
        """
        automata: list[PhaseAutomaton] = [markers.automaton for markers in self._automata]
        letters = max((len(moves) for automaton in automata for moves in automaton.moves), default=1)
        alphabet = [[-2] * letters, [-2] * letters]
        goto = [[NEVER] * (letters + 1), [ALWAYS] * (letters + 1)]
        thinks = [False, True]
        for automaton in automata:
            offset = len(thinks)
            for state, moves in enumerate(automaton.moves):
                unused, other = letters - len(moves), offset + automaton.nodes * automaton.thinks(state)
                alphabet.append([*moves] + [-2] * unused)
                goto.append([other, *(offset + target for target in moves.values())] + [other] * unused)
                thinks.append(automaton.thinks(state))
        self.alphabet, self.goto = self.to_device(alphabet), self.to_device(goto)
        self.thinks = torch.tensor(thinks).to(self.device)
        self.symbols = torch.arange(1, letters + 1, device=self.device)
        automata_tables = (self.alphabet, self.goto, self.thinks)
        self.host_automata = () if self.device.type == "cuda" else tuple(t.numpy() for t in automata_tables)

    def to_device(self, values: list[Any]) -> Tensor:
        host = torch.tensor(values)
        return host.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else host


def float_bits(value: float) -> int:
    """A float64 as the integer of the same bits."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


COMPILED = tuple(DECODINGS.index(name) for name in ("led", "top_k_control"))


def compiles(needs: Needs) -> bool:
    """Whether the compiled loops know every decoding of a batch."""
    return all(kind in COMPILED for kind in needs.decodings)
