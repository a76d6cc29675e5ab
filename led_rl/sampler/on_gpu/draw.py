"""A step's draw on a GPU: the Triton kernels of kernels.py around the latent layers of latent_layers.py.

Nothing waits for the device, and no temporary is as large as the logits.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from led_rl.sampler.backend import Asked, Batch, PartDraw
from led_rl.sampler.columns import LED, NORMED
from led_rl.sampler.latent_layers import LatentStatistics, triton
from led_rl.sampler.on_gpu import kernels
from led_rl.sampler.on_gpu.kernels import POSTERIOR, TILE, WEIGHT
from led_rl.sampler.request_slots import DecodingSlots, Needs, compiles
from led_rl.sampler.step import Draw, Read

USUAL_K = 8
LEAST_CANDIDATES = 16  # to which k is padded: one set of kernels serves every smaller k
MOST_CANDIDATES = 128  # they are picked one after the other
PER_THREAD = 4  # posteriors of the table, at most


@dataclass
class Workspace:
    """What the kernels of a step hand to each other, for up to so many rows; the next step writes over it."""

    best: Tensor  # (rows, tiles) int64
    totals: Tensor  # (rows, tiles) float32
    weighted: Tensor  # (rows, tiles) float32
    allowed: Tensor  # (rows,) int32
    scale: Tensor  # (rows,) float32
    wanted: Tensor  # (rows,) bool
    rows: Tensor  # (rows,) 0, 1, ...

    def fits(self, logits: Tensor) -> bool:
        rows, vocab = logits.shape
        return len(self.rows) >= rows and self.best.shape[1] == triton.cdiv(vocab, TILE)

    @classmethod
    def of(cls, rows: int, vocab: int, device: torch.device) -> "Workspace":
        tiles = triton.cdiv(vocab, TILE)
        return cls(
            torch.empty(rows, tiles, dtype=torch.int64, device=device),
            torch.empty(rows, tiles, dtype=torch.float32, device=device),
            torch.empty(rows, tiles, dtype=torch.float32, device=device),
            torch.empty(rows, dtype=torch.int32, device=device),
            torch.empty(rows, dtype=torch.float32, device=device),
            torch.empty(rows, dtype=torch.bool, device=device),
            torch.arange(rows, device=device),
        )


class FusedDraw:
    """Draws in fused kernels, without waiting for the device."""

    def __init__(self, workspace: Workspace | None = None):
        self.workspace = workspace

    @classmethod
    def warmed_up(cls, slots: DecodingSlots, vocab: int, wants_entropy: bool) -> "FusedDraw":
        return cls(warm_up(slots, vocab, wants_entropy))

    def takes(self, needs: Needs, logits: Tensor) -> bool:
        """Whether the kernels know every decoding of a batch (those of the CPU's loops), and k is not too large."""
        return logits.is_cuda and compiles(needs) and needs.k <= MOST_CANDIDATES

    def tensors(self) -> dict[str, Tensor]:
        return dict(vars(self.workspace)) if self.workspace else {}

    def draw(self, batch: Batch, asked: Asked) -> tuple[list[PartDraw], Tensor]:
        batch.slots.flush()
        rows, vocab = batch.logits.shape
        if self.workspace is None or not self.workspace.fits(batch.logits):
            self.workspace = Workspace.of(rows, vocab, batch.logits.device)
        active, draw, sums = draw_on_device(batch, asked, self.workspace)
        return [PartDraw(self.workspace.rows[:rows], active, draw)], sums


def draw_on_device(batch: Batch, asked: Asked, workspace: Workspace) -> tuple[Tensor, Draw, Tensor]:
    """Draws every row, and counts those that decode as their request asks; a row's logits must be contiguous.

    Returns:
        Which rows decode as their request asks, (rows,) bool, the draw, and (rows, 1 + statistics) float64: tokens
        known at admission and the sums so far of each row's slot.
    """
    slots, index, temperature, model, logits, needs = batch  # flushed: phases and sums are updated in place
    rows, vocab = logits.shape
    k, latents = min(needs.k, vocab), needs.latents
    kept, device = model.led_states, logits.device
    tiles, stride = triton.cdiv(vocab, TILE), logits.stride(0)
    columns, statistics = slots.settings.shape[1], slots.sums.shape[1]

    def fresh(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    active, wanted = fresh(rows, dtype=torch.bool), workspace.wanted[:rows]
    candidates, tokens = fresh(rows, k, dtype=torch.int64), fresh(rows, dtype=torch.int64)
    figures, policy, row_sums = fresh(rows, POSTERIOR + k), fresh(rows, k), fresh(rows, 1 + statistics)
    table, depths = fresh(rows, 1 + latents, k), fresh(rows, dtype=torch.int64)
    order = fresh(rows, latents, dtype=torch.int64) if needs.order is None else None
    normed = fresh(rows, dtype=torch.bool) if needs.shared[NORMED] != 0 else None
    width = max(LEAST_CANDIDATES, triton.next_power_of_2(k))
    layers = triton.next_power_of_2(1 + len(slots.captured))
    sizes = {"WANTS_ENTROPY": asked.wants_entropy, "CANDIDATES": width, "LAYERS": layers}

    of_tiles = workspace.best, workspace.totals, workspace.weighted
    kernels.scan_tiles[(rows, tiles)](logits, *of_tiles, stride, vocab, asked.wants_entropy)
    kernels.draw_final[(rows,)](
        logits,
        *of_tiles,
        index,
        slots.settings,
        slots.state,
        slots.alphabet,
        slots.goto,
        slots.thinks,
        kept.tokens,
        kept.positions,
        temperature,
        active,
        wanted,
        candidates,
        workspace.allowed,
        figures,
        workspace.scale,
        order,
        normed,
        stride,
        vocab,
        columns,
        slots.alphabet.shape[1],
        k,
        latents,
        int(asked.read_all),
        TILES=triton.next_power_of_2(tiles),
        **sizes,
    )
    reads = LED in needs.decodings
    latent = LatentStatistics(workspace.totals, workspace.totals)  # of which nothing is read
    if reads and latents:
        layers_read = order if needs.order is None else needs.order
        assert layers_read is not None
        latent = model.latent_statistics(layers_read, rows, candidates, workspace.scale[:rows], normed, wanted)
    kernels.draw_latent[(rows,)](
        *latent,
        index,
        slots.settings,
        slots.sums,
        active,
        wanted,
        candidates,
        workspace.allowed,
        figures,
        tokens,
        policy,
        depths,
        table,
        row_sums,
        columns,
        statistics,
        k,
        latents,
        STATISTICS=triton.next_power_of_2(statistics),
        num_warps=min(8, max(1, width * layers // (32 * PER_THREAD))),
        **sizes,
    )
    read = Read(None, wanted, depths, table) if reads else None
    return active, Draw(tokens, candidates, policy, figures[:, WEIGHT], figures[:, POSTERIOR], read), row_sums


def write_policy(scores: Tensor, active: Tensor, candidates: Tensor, policy: Tensor) -> Tensor:
    """Writes the log-policies (rows, k) of rows that are active over (rows, vocab) log-probabilities, in place."""
    (rows, vocab), k = scores.shape, candidates.shape[1]
    each_tile = rows, triton.cdiv(vocab, TILE)
    kernels.write_policy[each_tile](
        scores, active, candidates.contiguous(), policy.contiguous(), scores.stride(0), vocab, k
    )
    return scores


def warm_up(slots: DecodingSlots, vocab: int, wants_entropy: bool) -> Workspace:
    """A workspace for every slot, and the kernels compiled for the usual k, with one row that decodes as usual."""
    device, latents = slots.device, len(slots.captured)
    workspace = Workspace.of(slots.spare, vocab, device)
    zeros = torch.zeros(1, dtype=torch.int64, device=device)
    figures = torch.zeros(1, max(1, latents), USUAL_K, device=device)
    model = SimpleNamespace(
        led_states=SimpleNamespace(tokens=zeros, positions=zeros),
        latent_statistics=lambda *_: LatentStatistics(figures[..., 0], figures),
    )
    for order in (tuple(range(latents)), None):  # requests that agree on their layers, and that do not
        needs = Needs((LED,), USUAL_K, True, latents, True, {NORMED: 0}, order)
        ones = torch.ones(1, device=device)
        logits = torch.zeros(1, vocab, device=device)
        batch = Batch(slots, zeros + slots.spare, ones, model, logits, needs)
        draw_on_device(batch, Asked(False, False, wants_entropy), workspace)
    return workspace
