"""What each step drew, kept for tests and for `led-rl doctor`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from led_rl.sampler.backend import PartDraw
from led_rl.sampler.request_slots import DecodingSlots
from led_rl.sampler.step import Draw


@dataclass
class TracedStep:
    """One step's rows, on the host."""

    extra_args: list[Mapping[str, Any] | None]  # (rows,) of the row's request, None for requests that decode as usual
    positions: Tensor  # (rows,) of the token fed in
    active: Tensor  # (rows,) bool: decodes as its request asks
    draws: dict[int, tuple["TracedDraw", int]]  # by row: the draw that served it, and its index there


@dataclass
class TracedDraw:
    """A `Draw` with what was read of latent layers spread over its rows."""

    candidates: Tensor  # (n, k)
    policy: Tensor  # (n, k)
    explored: Tensor  # (n,)
    confidence: Tensor  # (n,)
    read: Tensor | None = None  # (n,) bool; None: of no row
    depth: Tensor | None = None  # (n,)
    table: Tensor | None = None  # (n, depth, k)

    @classmethod
    def of(cls, draw: Draw) -> "TracedDraw":
        traced = cls(*(t.clone() for t in (draw.candidates, draw.policy, draw.explored, draw.confidence)))
        if (read := draw.read) is not None:
            n = len(draw.candidates)
            rows = torch.arange(n, device=draw.candidates.device) if read.rows is None else read.rows
            counts = read.depth.new_ones(len(rows)).bool() if read.mask is None else read.mask
            traced.read = counts.new_zeros(n).index_copy(0, rows, counts)
            traced.depth = read.depth.new_zeros(n).index_copy(0, rows, read.depth)
            table = read.table.float()
            traced.table = table.new_zeros(n, *table.shape[1:]).index_copy(0, rows, table)
        return traced


def traced_step(slots: DecodingSlots, index: Tensor, positions: Tensor, draws: Sequence[PartDraw]) -> TracedStep:
    """What a step drew; `index`, `positions`: (rows,) slot of each row, and position of the token fed in."""
    active = torch.zeros(len(index), dtype=torch.bool)
    traced: dict[int, tuple[TracedDraw, int]] = {}
    for rows, mask, draw in draws:
        spread = TracedDraw.of(draw)
        counts = [True] * len(rows) if mask is None else mask.tolist()
        traced |= {row: (spread, i) for i, row in enumerate(rows.tolist()) if counts[i]}
    active[list(traced)] = True
    admitted = [slots.slots.get(slot) for slot in index.tolist()]
    extra_args = [None if slot is None else slot.extra_args for slot in admitted]
    return TracedStep(extra_args, positions.cpu().clone(), active, traced)
