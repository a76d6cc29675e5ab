"""Per-request decoding state on the device: one slot a request, updated in the decode loop without a host sync."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from led_rl.decoding import AGGREGATIONS, DECODINGS, PREFIX, DecodingParams
from led_rl.thinking import PhaseAutomaton, ThinkMarkers

# Columns of the settings table; the columns from ORDER on hold each row's latent layers, as indices into the captured.
KNOWN, DECODING, DEPTH, K, EXPLOIT, COIN, AGGREGATION, NORMED, GREEDY, KEY, ORDER = range(11)
NEVER, ALWAYS = 0, 1  # states of rows that never, and always, decode as their request asks
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


@dataclass
class Slot:
    """Host side of an admitted request."""

    params: DecodingParams
    extra_args: Mapping[str, Any]
    row: list[int]  # of the settings table
    markers: ThinkMarkers | None  # None: it never changes its phase


class DecodingSlots:
    """Settings, thinking phase and statistics of up to `count` requests; a spare slot is for rows that decode as usual.

    Attributes:
        settings: (count + 1, columns) int64.
        state: (count + 1,) int64 state in the stacked automata of all think markers in use.
        sums: (count + 1, statistics) float64 of each slot's request so far.
    """

    def __init__(
        self, count: int, captured_layers: tuple[int, ...], num_layers: int, statistics: int, device: torch.device
    ):
        self.captured = captured_layers
        self.num_layers = num_layers
        self.device = device
        self.spare = count
        self.settings = torch.zeros(count + 1, ORDER + len(captured_layers), dtype=torch.int64, device=device)
        self.state = torch.zeros(count + 1, dtype=torch.int64, device=device)
        self.sums = torch.zeros(count + 1, statistics, dtype=torch.float64, device=device)
        self.retired = torch.zeros(statistics, dtype=torch.float64, device=device)  # of slots that were taken anew
        self.slots: dict[int, Slot] = {}
        self.staged: dict[int, tuple[list[int], int]] = {}
        self._needs: Needs | None = None
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
    ) -> None:
        """Takes `slot` for a request of which `token_ids` (prompt, and output so far) are known.

        Tokens not known yet (async scheduling leaves -1 placeholders) are followed on the device instead. Without
        markers the request thinks to its end.
        """
        params = decoding_of(extra_args)
        known = next((i for i, token in enumerate(token_ids) if token < 0), len(token_ids))
        state = ALWAYS
        if not params.think_only:
            markers = None
        if markers is not None:
            unmarked = params.think_start == "prompt"
            state = self._offset(markers) + markers.automaton.state_after(token_ids[:known], unmarked)
        layers = params.layers(self.num_layers)
        row = [0] * self.settings.shape[1]
        row[KNOWN], row[DECODING], row[DEPTH] = known, DECODINGS.index(params.decoding), 1 + len(layers)
        row[K], row[EXPLOIT], row[COIN] = params.k, params.exploit, params.draw == "coin"
        row[AGGREGATION], row[NORMED] = AGGREGATIONS.index(params.aggregation), params.latent_norm
        row[GREEDY], row[KEY] = temperature == 0, key_of(seed)
        row[ORDER : ORDER + len(layers)] = [self.captured.index(layer) for layer in layers]
        self.slots[slot] = Slot(params, extra_args, row, markers)
        self.staged[slot] = row, state
        self._needs = None

    def release(self, slot: int) -> None:
        del self.slots[slot]
        self.staged[slot] = [0] * self.settings.shape[1], NEVER
        self._needs = None

    def flush(self) -> bool:
        """Moves what was admitted or released since the last step to the device, in one transfer; True if any was."""
        if not self.staged:
            return False
        slots = self.to_device(list(self.staged))
        rows = self.to_device([[state, *row] for row, state in self.staged.values()])
        self.state[slots], self.settings[slots] = rows[:, 0], rows[:, 1:]
        self.retired += self.sums[slots].sum(0)
        self.sums[slots] = 0.0
        self.staged.clear()
        return True

    def needs(self) -> Needs:
        """Of the requests admitted now, at least one; worked out when they change, not at every step."""
        if self._needs is None:
            rows = [slot.row for slot in self.slots.values()]
            seen = {column: {row[column] for row in rows} for column in (DECODING, K, DEPTH, *_FLAGS)}
            self._needs = Needs(
                decodings=tuple(sorted(seen[DECODING])),
                k=max(seen[K]),
                same_k=len(seen[K]) == 1,
                latents=max(seen[DEPTH]) - 1,
                same_depth=len(seen[DEPTH]) == 1,
                shared={column: next(iter(seen[column])) if len(seen[column]) == 1 else None for column in _FLAGS},
            )
        return self._needs

    def follow(
        self, slots: Tensor, tokens: Tensor, positions: Tensor, settings: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Follows the think markers and says which rows decode as their request asks now.

        Args:
            slots: (rows,) slot of each row, `spare` for rows that decode as usual.
            tokens: (rows,) token fed in at each row.
            positions: (rows,) its position. Only tokens past what the host scanned at admission count: a chunk of
                prefill may end on a marker that a later prompt token overrules.
            settings: (rows, columns) of the slots, if at hand.

        Returns:
            (rows,) bool, and the rows' settings (rows, columns). Rows of an unfinished prefill decode as usual: their
            token is thrown away.
        """
        settings = self.settings[slots] if settings is None else settings
        known = settings[:, KNOWN]
        state = self.state[slots]
        hit = self._alphabet[state] == tokens[:, None]  # (rows, letters), at most one
        after = self._goto[state, (hit * self._symbols).sum(-1)]
        state = torch.where(positions >= known, after, state)
        self.state[slots] = state  # slots are unique but for the spare one, whose state stays NEVER
        return self._thinks[state] & (positions >= known - 1), settings

    def _offset(self, markers: ThinkMarkers) -> int:
        if markers not in self._automata:
            if len(self._automata) >= MOST_MARKERS:
                self._forget_unused_markers()
            self._automata[markers] = len(self._thinks)
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
        """Stacks the automata of all markers in use, after the two constant states. Letter 0 is any other token."""
        automata: list[PhaseAutomaton] = [markers.automaton for markers in self._automata]
        letters = max((len(automaton.alphabet) for automaton in automata), default=1)
        alphabet = [[-2] * letters, [-2] * letters]
        goto = [[NEVER] * (letters + 1), [ALWAYS] * (letters + 1)]
        thinks = [False, True]
        for automaton in automata:
            offset, unused = len(thinks), letters - len(automaton.alphabet)
            for state, row in enumerate(automaton.goto):
                *by_letter, other = [offset + target for target in row]
                alphabet.append([*automaton.alphabet] + [-2] * unused)
                goto.append([other, *by_letter] + [other] * unused)
                thinks.append(automaton.thinks(state))
        self._alphabet, self._goto = self.to_device(alphabet), self.to_device(goto)
        self._thinks = torch.tensor(thinks).to(self.device)
        self._symbols = torch.arange(1, letters + 1, device=self.device)

    def to_device(self, values: list[Any]) -> Tensor:
        host = torch.tensor(values)
        return host.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else host


def decoding_of(extra_args: Mapping[str, Any] | None) -> DecodingParams:
    """`DecodingParams.from_extra_args`, remembered: many requests ask for the same."""
    if not extra_args:
        return STANDARD
    ours = ((k, tuple(v) if isinstance(v, list) else v, type(v)) for k, v in extra_args.items() if k.startswith(PREFIX))
    try:
        return _remembered(tuple(ours))
    except TypeError:  # a value that cannot be hashed is wrong: say so
        return DecodingParams.from_extra_args(extra_args)


STANDARD = DecodingParams()


@lru_cache(maxsize=4096)
def _remembered(items: tuple[tuple[str, Hashable, type], ...]) -> DecodingParams:
    return DecodingParams.from_extra_args({key: value for key, value, _ in items})


# A counter-based generator: the uniform number of a request's token is a hash of its seed and position alone. So it
# depends neither on the batch nor on scheduling, and every runner and rank draws the same token.
# SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1


def key_of(seed: int) -> int:
    """64-bit key of a request's stream, as a signed integer; similar seeds get unrelated keys."""
    return _signed(_mixed((seed + _GOLDEN) & _MASK))


def uniforms(keys: Tensor, positions: Tensor) -> Tensor:
    """(rows,) float64 in [0, 1), multiples of 2**-52, from (rows,) int64 keys and positions."""
    x = keys + (positions + 1) * _signed(_GOLDEN)  # int64 arithmetic wraps around
    x = (x ^ _shifted(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shifted(x, 27)) * _signed(_MIX_2)
    x = x ^ _shifted(x, 31)
    return _shifted(x, 12).double() * 2.0**-52


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's is arithmetic."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x
