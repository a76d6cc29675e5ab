"""Log-sum-exp over the vocabulary and candidate logits of the latent layers, without their logits in memory.

LED needs two things of each latent layer of a row: log sum_v exp(logit_v / T), and the logits of its k candidates.
Both come out of one pass over the LM head: a tile of logits lives just long enough to be summed and picked from.

    CPU   `torch_latent_statistics`: one GEMM per chunk of the vocabulary, for the needed rows alone, into a buffer
          that stays in the cache. Also the oracle for the kernel; on CUDA tensors it computes every row.
    CUDA  `triton_latent_statistics`: the needed rows are packed on the device, so that the blocks of (row, layer)
          pairs are full of them, and the blocks past their number end at once. Nothing waits for the device.

What bounds the kernel: a block of 16 to 128 pairs reads the head once, vocab * hidden * itemsize bytes; blocks of one
vocabulary tile are launched side by side, so that L2 can serve all but the first. For Qwen3-4B (151 936 x 2 560, bf16)
that is 778 MB, 0.16 ms at 4.8 TB/s; above ~200 pairs the dot's 2 * pairs * vocab * hidden operations take longer.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a platform without Triton: only CUDA tensors need it
    triton = None

CHUNK = 4096  # vocabulary columns; of 2k to 32k the fastest on a CPU core for 7 to 224 pairs at hidden 256
SMALL = 1 << 20  # multiply-adds: below, every row at once is faster on a CPU than picking the needed ones
LOWEST = torch.finfo(torch.float32).min  # where a running maximum starts: -inf minus -inf would be NaN


class LatentStatistics(NamedTuple):
    """What LED reads of the latent layers; of a row that was not needed it may be anything."""

    log_normaliser: Tensor  # (rows, depth) float32: log sum_v exp(scale * logit_v) over this rank's vocabulary
    logits: Tensor  # (rows, depth, k) float32: scale * logit at the candidates; -inf at those of other ranks


@dataclass(frozen=True)
class Head:
    """The LM head of this rank. Its logits are logit_scale * soft_cap * tanh((weight x + bias) / soft_cap).

    Attributes:
        weight: (>= vocab, hidden); rows from `vocab` on are padding and do not count.
        vocab: number of real vocabulary rows of this rank.
        start: token id of row 0, where tensor-parallel ranks share the vocabulary.
        bias: (>= vocab,)
        soft_cap: None leaves logits uncapped.
        logit_scale: multiplies logits after the cap, as in vLLM's LogitsProcessor.
    """

    weight: Tensor
    vocab: int
    start: int = 0
    bias: Tensor | None = None
    soft_cap: float | None = None
    logit_scale: float = 1.0
    whole: bool = False  # no other rank holds a part of the vocabulary


def latent_statistics(
    states: Tensor, head: Head, candidates: Tensor, scale: Tensor, needed: Tensor | None = None
) -> LatentStatistics:
    """Log-normalisers and candidate logits of latent layers over this rank's vocabulary.

    Args:
        states: (rows, depth, hidden) in the dtype of the head's weight.
        candidates: (rows, k) int64 token ids of the whole vocabulary.
        scale: (rows,) float32, 1 / temperature.
        needed: (rows,) bool: rows whose result matters; None: all of them.
    """
    compute = triton_latent_statistics if states.is_cuda else torch_latent_statistics
    return compute(states, head, candidates, scale, needed)


def merge_ranks(statistics_per_rank: Tensor) -> LatentStatistics:
    """Statistics over the whole vocabulary from (ranks, rows, depth, 1 + k): log-normaliser, then logits, by rank."""
    return LatentStatistics(statistics_per_rank[..., 0].logsumexp(0), statistics_per_rank[..., 1:].amax(0))


def torch_latent_statistics(
    states: Tensor, head: Head, candidates: Tensor, scale: Tensor, needed: Tensor | None = None, chunk: int = CHUNK
) -> LatentStatistics:
    """`latent_statistics` in float32 PyTorch, `chunk` vocabulary columns at a time."""
    if needed is None or states.is_cuda:  # picking rows would wait for the device
        return _torch_every_row(states, head, candidates, scale, chunk)
    index = needed.nonzero().squeeze(1)  # (rows needed,)
    if not len(index):
        return _not_needed(states, candidates)
    if len(index) == len(needed) or states.numel() * head.vocab <= SMALL:
        return _torch_every_row(states, head, candidates, scale, chunk)
    some = _torch_every_row(states[index], head, candidates[index], scale[index], chunk)
    result = _not_needed(states, candidates)
    result.log_normaliser.index_copy_(0, index, some.log_normaliser)
    result.logits.index_copy_(0, index, some.logits)
    return result


def _not_needed(states: Tensor, candidates: Tensor) -> LatentStatistics:
    rows, depth, _ = states.shape
    logits = states.new_full((rows, depth, candidates.shape[1]), float("-inf"), dtype=torch.float32)
    return LatentStatistics(states.new_zeros(rows, depth, dtype=torch.float32), logits)


def _torch_every_row(states: Tensor, head: Head, candidates: Tensor, scale: Tensor, chunk: int) -> LatentStatistics:
    ids = candidates if head.whole else candidates - head.start  # (rows, k) rows of this rank's weight
    own = ids if head.whole else ids.clamp(0, max(head.vocab - 1, 0))
    columns = own[:, None].expand(-1, states.shape[1], -1)  # (rows, depth, k)
    factor = (scale * head.logit_scale)[:, None, None]
    linear = head.bias is None and head.soft_cap is None  # then states may be multiplied instead of logits
    states = states.float() * factor if linear else states.float()
    late_factor = None if linear else factor
    if 0 < head.vocab <= chunk:
        logits = _torch_logits(states, head, 0, head.vocab, late_factor)
        log_p = torch.log_softmax(logits, dim=-1).gather(-1, columns[..., :1])  # one fused pass; logsumexp takes six
        logits = logits.gather(-1, columns)
        log_normaliser = (logits[..., :1] - log_p).squeeze(-1)
    else:
        log_normaliser, logits = _torch_stream(states, head, columns, late_factor, chunk)
    if head.whole:
        return LatentStatistics(log_normaliser, logits)
    return LatentStatistics(log_normaliser, logits.masked_fill_((own != ids)[:, None], float("-inf")))


def _torch_logits(
    states: Tensor, head: Head, first: int, last: int, factor: Tensor | None, out: Tensor | None = None
) -> Tensor:
    """(rows, depth, last - first) logits of vocabulary columns; `out` is (rows * depth, last - first)."""
    weight = head.weight[first:last].float()
    logits = torch.mm(states.flatten(0, 1), weight.T, out=out).unflatten(0, states.shape[:2])
    if head.bias is not None:
        logits += head.bias[first:last]
    if head.soft_cap is not None:
        logits.div_(head.soft_cap).tanh_().mul_(head.soft_cap)
    return logits if factor is None else logits.mul_(factor)


def _torch_stream(
    states: Tensor, head: Head, columns: Tensor, factor: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Log-normalisers (rows, depth) and logits (rows, depth, k) at `columns`, chunk by chunk."""
    rows, depth, _ = states.shape
    buffer = states.new_zeros(rows * depth, chunk)
    picked = states.new_full(columns.shape, float("-inf"))
    peak = states.new_full((rows, depth, 1), LOWEST)
    total = states.new_zeros(rows, depth, 1)  # sum of exp(logit - peak) so far
    chunk_of, column_in_chunk = columns // chunk, columns % chunk
    for index, first in enumerate(range(0, head.vocab, chunk)):
        last = min(first + chunk, head.vocab)
        logits = _torch_logits(states, head, first, last, factor, buffer[:, : last - first])
        candidates = buffer.view(rows, depth, chunk).gather(-1, column_in_chunk)
        picked = torch.where(chunk_of == index, candidates, picked)
        higher = torch.maximum(peak, logits.amax(-1, keepdim=True))
        total = total * (peak - higher).exp_() + logits.sub_(higher).exp_().sum(-1, keepdim=True)
        peak = higher
    return (peak + total.log()).squeeze(-1), picked


def triton_latent_statistics(
    states: Tensor, head: Head, candidates: Tensor, scale: Tensor, needed: Tensor | None = None
) -> LatentStatistics:
    """`latent_statistics` on the device. The first call for a new head, dtype or size of batch tunes, and waits."""
    rows, depth, hidden = states.shape
    k, pairs, device = candidates.shape[1], rows * depth, states.device
    # Each rank writes the logits of its own candidates alone.
    logits = torch.empty(rows, depth, k, dtype=torch.float32, device=device)
    result = LatentStatistics(
        torch.empty(rows, depth, dtype=torch.float32, device=device),
        logits if head.whole else logits.fill_(float("-inf")),
    )
    if not pairs:
        return result
    if states.stride(2) != 1:
        states = states.contiguous()
    needed = torch.ones(rows, dtype=torch.bool, device=device) if needed is None else needed.contiguous()
    order = torch.empty(rows, dtype=torch.int32, device=device)  # row numbers, needed ones first
    count = torch.empty(1, dtype=torch.int32, device=device)  # needed rows
    _pack_rows[(1,)](needed.view(torch.uint8), order, count, rows, max(1024, triton.next_power_of_2(rows)))

    splits = _vocabulary_splits(device)
    partial = torch.empty(pairs, splits, dtype=torch.float32, device=device)  # log-sum-exp, by packed pair
    inputs = (states, head.weight, head.bias, candidates.contiguous(), scale.contiguous(), order, count)
    sizes = (rows, depth, hidden, k, head.vocab, head.start, states.stride(0), states.stride(1), head.weight.stride(0))
    bucket, even = min(max(16, triton.next_power_of_2(pairs)), 256), hidden % 128 == 0
    _read_vocabulary[lambda tile: (triton.cdiv(pairs, tile["BLOCK_M"]), splits)](
        *inputs, partial, result.logits, *sizes, head.soft_cap, head.logit_scale, BUCKET=bucket, EVEN=even
    )
    _merge_splits[(pairs,)](partial, order, count, result.log_normaliser, depth, splits, triton.next_power_of_2(splits))
    return result


@cache
def _vocabulary_splits(device: torch.device) -> int:
    """Programs among which the vocabulary is split: two for each multiprocessor."""
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _tune_with_every_row(arguments: dict[str, Any], reset_only: bool = False) -> None:
    """Autotune's hook: a batch that needs few rows would time nothing. To compute the others too does no harm."""
    arguments["count"].fill_(arguments["rows"])


if triton is not None:
    _LOWEST = tl.constexpr(LOWEST)
    _TILES = [  # BLOCK_M, BLOCK_N, BLOCK_H, warps, stages
        (16, 128, 128, 4, 4),
        (32, 128, 128, 4, 4),
        (64, 128, 64, 4, 4),
        (64, 256, 64, 8, 3),
        (128, 128, 64, 8, 3),
    ]
    _CONFIGS = [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_H": h}, num_warps=warps, num_stages=stages)
        for m, n, h, warps, stages in (_TILES[:1] if triton.knobs.runtime.interpret else _TILES)
    ]

    @triton.jit(do_not_specialize=["rows"])
    def _pack_rows(needed, order, count, rows, BLOCK: tl.constexpr):
        row = tl.arange(0, BLOCK)
        wanted = tl.load(needed + row, mask=row < rows, other=0).to(tl.int32)
        before = tl.cumsum(wanted, 0) - wanted  # needed rows before this one
        total = tl.sum(wanted, 0)
        tl.store(order + tl.where(wanted > 0, before, total + row - before), row, mask=row < rows)
        tl.store(count, total)

    @triton.autotune(configs=_CONFIGS, key=["hidden", "vocab", "BUCKET"], pre_hook=_tune_with_every_row)
    @triton.jit(do_not_specialize=["rows", "depth", "k", "start"])
    def _read_vocabulary(
        states,  # (rows, depth, hidden), rows `row_stride` and layers `layer_stride` apart
        weight,  # (>= vocab, hidden), rows `weight_stride` apart
        bias,  # (>= vocab,) or None
        candidates,  # (rows, k)
        scale,  # (rows,)
        order,  # (rows,)
        count,  # (1,)
        partial,  # (rows * depth, splits) out, by packed pair
        logits_out,  # (rows, depth, k) out
        rows,
        depth,
        hidden,
        k,
        vocab,
        start,
        row_stride,
        layer_stride,
        weight_stride,
        soft_cap,
        logit_scale,
        BUCKET: tl.constexpr,  # pairs, rounded: a key to tune by
        EVEN: tl.constexpr,  # hidden is a multiple of every BLOCK_H
        BLOCK_M: tl.constexpr,
        BLOCK_N: tl.constexpr,
        BLOCK_H: tl.constexpr,
    ):
        split, splits = tl.program_id(1), tl.num_programs(1)
        used = tl.load(count) * depth
        slot = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,) packed pairs
        if tl.program_id(0) * BLOCK_M >= used:
            return
        real = slot < used
        slot = tl.minimum(slot, used - 1)
        row, layer = tl.load(order + slot // depth).to(tl.int64), (slot % depth).to(tl.int64)
        pair = row * depth + layer
        factor = tl.load(scale + row) * logit_scale
        inner = tl.arange(0, BLOCK_H)
        state = states + (row * row_stride + layer * layer_stride)[:, None] + inner[None, :]
        peak = tl.full((BLOCK_M,), _LOWEST, tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        for tile in range(split, tl.cdiv(vocab, BLOCK_N), splits):
            column = tile * BLOCK_N + tl.arange(0, BLOCK_N)
            weight_row = tl.minimum(column, vocab - 1)
            head = weight + weight_row.to(tl.int64)[:, None] * weight_stride + inner[None, :]
            logits = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for first in range(0, hidden, BLOCK_H):
                if EVEN:
                    x, w = tl.load(state + first), tl.load(head + first)
                else:
                    within = (first + inner < hidden)[None, :]
                    x, w = tl.load(state + first, mask=within, other=0.0), tl.load(head + first, mask=within, other=0.0)
                logits = tl.dot(x, tl.trans(w), logits, input_precision="ieee")
            if bias is not None:
                logits += tl.load(bias + weight_row).to(tl.float32)[None, :]
            if soft_cap is not None:
                decay = tl.exp(-2 * tl.abs(logits / soft_cap))  # tanh x = sign x (1 - e^-2|x|) / (1 + e^-2|x|)
                logits = tl.where(logits < 0, -soft_cap, soft_cap) * (1 - decay) / (1 + decay)
            logits = tl.where((column < vocab)[None, :], logits * factor[:, None], float("-inf"))

            higher = tl.maximum(peak, tl.max(logits, 1))
            total = total * tl.exp(peak - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
            peak = higher

            begin, end = tile * BLOCK_N, tl.minimum((tile + 1) * BLOCK_N, vocab)
            for group in range(0, k, 8):  # most tiles hold none of the candidates
                member = group + tl.arange(0, 8)
                token = tl.load(candidates + row[:, None] * k + member[None, :], mask=(member < k)[None, :], other=-1)
                inside = (token >= begin + start) & (token < end + start)
                if tl.max(tl.max(inside.to(tl.int32), 1), 0) > 0:
                    for c in range(group, tl.minimum(group + 8, k)):
                        place = tl.load(candidates + row * k + c) - start
                        value = tl.max(tl.where(place[:, None] == column[None, :], logits, float("-inf")), 1)
                        tl.store(logits_out + pair * k + c, value, mask=real & (place >= begin) & (place < end))
        tl.store(partial + slot * splits + split, peak + tl.log(total), mask=real)

    @triton.jit
    def _merge_splits(partial, order, count, log_normaliser, depth, splits, BLOCK: tl.constexpr):
        slot = tl.program_id(0)
        if slot < tl.load(count) * depth:
            split = tl.arange(0, BLOCK)
            parts = tl.load(partial + slot * splits + split, mask=split < splits, other=float("-inf"))
            peak = tl.maximum(tl.max(parts, 0), _LOWEST)
            pair = tl.load(order + slot // depth) * depth + slot % depth
            tl.store(log_normaliser + pair, peak + tl.log(tl.sum(tl.exp(parts - peak), 0)))
