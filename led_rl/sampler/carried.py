"""What a request's draw hands on to its next forward pass: a mix of token embeddings, or a scale of noise.

One row a slot, on the device, so that neither waits for the host. For requests that must be computed anew after a
preemption, each step's rows also go to the host (`History`): the mixes cannot be told from the tokens.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from led_rl.thinking import ThinkMarkers

# Columns of `Carried.settings`, one row a slot: the request's truncation, and the token that ends thinking.
TOP_K, TOP_P, MIN_P, END = range(4)
# Columns of `Carried.figures`: where the next input is fed, steps of low entropy in a row, and the noise's scale.
POSITION, LOW, SCALE = range(3)
NOWHERE = -1.0
MOST_MIXED = 32  # tokens of a mix


class NextInput(NamedTuple):
    """What a draw hands on to the next forward pass of its rows."""

    ids: Tensor  # (n, k) int64 tokens of the mix
    weights: Tensor  # (n, k) their weights; k = 0: the token's own embedding is fed
    low: Tensor  # (n,) steps of low entropy in a row
    scale: Tensor  # (n,) of the noise, in units of the state's root mean square
    stopped: Tensor | None = None  # (n,) bool: thinking was ended


class CarriedRows(NamedTuple):
    """What the rows of a step were handed."""

    settings: Tensor  # (n, settings) float64
    positions: Tensor  # (n,) of the token fed in
    low: Tensor  # (n,) float64
    changed: Tensor  # (n,) bool: this forward pass was changed


class Carried:
    """Tables of `slots` requests; the last row belongs to the spare slot.

    Attributes:
        settings: (slots + 1, settings) float64.
        figures: (slots + 1, 3) float64.
        ids, weights: (slots + 1, most) int64 and float32, 0 beyond a mix's tokens.
        k: the most tokens of a mix of the admitted requests.
        names: request and slot of the step's rows whose forward pass may change; the runner says so before the pass.
    """

    def __init__(self, slots: int, most: int, device: torch.device):
        self.settings = torch.zeros(slots + 1, END + 1, dtype=torch.float64, device=device)
        self.figures = torch.zeros(slots + 1, SCALE + 1, dtype=torch.float64, device=device)
        self.figures[:, POSITION] = NOWHERE
        self.ids = torch.zeros(slots + 1, most, dtype=torch.int64, device=device)
        self.weights = torch.zeros(slots + 1, most, dtype=torch.float32, device=device)
        self.k = 0
        self.history = History()
        self._staged: dict[int, list[float]] = {}
        self.names: list[tuple[str, int]] = []

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def stage(self, slot: int, truncation: tuple[int, float, float], markers: ThinkMarkers | None) -> None:
        """Takes a slot anew at the next `flush`, for a request of this top-k, top-p and min-p."""
        end = None if markers is None else end_token(markers)
        self._staged[slot] = [*truncation, -1 if end is None else end]

    def flush(self) -> None:
        """Moves what was staged to the device."""
        if self._staged:
            slots = self.to_device(torch.tensor(list(self._staged)))
            self.settings[slots] = self.to_device(torch.tensor(list(self._staged.values()), dtype=torch.float64))
            self.figures[slots] = 0.0
            self.figures[slots, POSITION] = NOWHERE
            self._staged.clear()

    def to_device(self, host: Tensor) -> Tensor:
        device = self.figures.device
        return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host

    def rows(self, slots: Tensor, positions: Tensor) -> CarriedRows:
        """What the rows of a step, (n,) slots and positions of the tokens fed in, were handed."""
        figures = self.figures[slots]
        changed = figures[:, POSITION] == positions
        return CarriedRows(self.settings[slots], positions, torch.where(changed, figures[:, LOW], 0.0), changed)

    def put(self, slots: Tensor, positions: Tensor, given: NextInput, mask: Tensor | None) -> None:
        """Keeps what (n,) slots feed at (n,) positions; `mask`: (n,) bool rows that count, None for all."""
        figures = torch.stack([positions.double(), given.low.double(), given.scale.double()], dim=1)
        k = min(given.ids.shape[1], self.ids.shape[1])
        ids, weights = given.ids[:, :k], given.weights[:, :k].float()
        if mask is not None:
            here = mask[:, None]
            figures = torch.where(here, figures, self.figures[slots])
            ids, weights = (
                torch.where(here, ids, self.ids[slots, :k]),
                torch.where(here, weights, self.weights[slots, :k]),
            )
        self.figures[slots] = figures
        self.ids[slots, :k], self.weights[slots, :k] = ids, weights
        self.weights[slots, k:] = 0.0 if mask is None else torch.where(here, 0.0, self.weights[slots, k:])

    def record(self) -> None:
        """Sends the rows of the step to the host, for requests that may be preempted."""
        if not self.names:
            return
        slots = self.to_device(torch.tensor([slot for _, slot in self.names]))
        ids, weights = self.ids[slots, : self.k], self.weights[slots, : self.k]
        rows = torch.cat([self.figures[slots].float(), ids.float(), weights], dim=1)  # exact up to 2**24
        self.history.add([name for name, _ in self.names], rows.to("cpu", non_blocking=True))

    def restore(self, slot: int, row: Tensor) -> None:
        """Puts a row of the history back into a slot."""
        figures, ids, weights = parts(row.to(self.figures.device))
        self.figures[slot], self.weights[slot] = figures, 0.0
        self.ids[slot, : len(ids)], self.weights[slot, : len(ids)] = ids, weights


def end_token(markers: ThinkMarkers) -> int | None:
    """The one token that ends thinking; None if it takes several, or any of several."""
    pattern = markers.end[0]
    single = len(markers.end) == 1 and len(pattern) == 1
    return pattern[0] if single and isinstance(pattern[0], int) else None


def parts(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Figures (..., 3), ids (..., k) and weights (..., k) of rows (..., 3 + 2 k) of the history."""
    figures, mix = rows[..., : SCALE + 1], rows[..., SCALE + 1 :]
    k = mix.shape[-1] // 2
    return figures, mix[..., :k].long(), mix[..., k:]


class History:
    """What was handed on at each step, by request, on the host; a preempted request is computed anew from it.

    Attributes:
        keys: of each request's random numbers: a request without a seed is given another one when it comes back.
    """

    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[Tensor, int]]] = {}
        self.keys: dict[str, int] = {}

    def add(self, names: Sequence[str], rows: Tensor) -> None:
        for i, name in enumerate(names):
            self.steps.setdefault(name, []).append((rows, i))

    def of(self, name: str, k: int) -> dict[int, Tensor]:
        """(3 + 2 k,) rows of a request by the position that they are fed at. Waits for the device.

        `k`: the most tokens of its own mixes; a row has as many as the largest mix of its step.
        """
        if name in self.steps and torch.cuda.is_available():
            torch.cuda.synchronize()
        found = {}
        for rows, i in self.steps.get(name, []):
            figures, ids, weights = parts(rows[i])
            found[int(figures[POSITION])] = torch.cat([figures, ids[:k].float(), weights[:k]])
        found.pop(int(NOWHERE), None)
        return found

    def keep(self, names: Collection[str]) -> None:
        """Forgets all other requests."""
        self.forget([name for name in self.keys if name not in names])

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.steps.pop(name, None)
            self.keys.pop(name, None)
