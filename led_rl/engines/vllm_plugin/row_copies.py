"""Copies what a step's sampled rows need out of the model's inputs and residual streams: Triton on CUDA, else torch."""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a platform without Triton: only CUDA tensors need it
    triton = None

BLOCK = 1024  # columns of a state that one program copies


def keep_every_row(hidden: Tensor, residual: Tensor | None, kept: Tensor) -> None:
    """`keep_rows` of a step that samples every token, into `kept` (tokens, hidden)."""
    if residual is None:
        kept.copy_(hidden)
    else:
        torch.add(hidden, residual, out=kept)


def keep_rows(hidden: Tensor, residual: Tensor | None, rows: Tensor, kept: Tensor) -> None:
    """Writes `hidden + residual`, (tokens, hidden), at the indices `rows` into `kept` (max_rows, hidden)."""
    count = min(hidden.shape[0], rows.shape[0])
    if hidden.is_cuda:
        return _keep_rows_on_device(hidden, residual, rows, kept, count)
    rows, kept = rows[:count], kept[:count]
    torch.index_select(hidden, 0, rows, out=kept)
    if residual is not None:
        kept += residual.index_select(0, rows)


def take_tokens(token_ids: Tensor, positions: Tensor, rows: Tensor, tokens_out: Tensor, positions_out: Tensor) -> None:
    """Writes the step's (tokens,) ids and positions at the indices `rows` into (max_rows,) int64 buffers."""
    count = min(token_ids.shape[0], rows.shape[0])
    if token_ids.is_cuda:
        return _take_tokens_on_device(token_ids, positions, rows, tokens_out, positions_out, count)
    rows = rows[:count]
    tokens_out[:count] = token_ids.index_select(0, rows)
    positions_out[:count] = positions.index_select(0, rows)


def _keep_rows_on_device(hidden: Tensor, residual: Tensor | None, rows: Tensor, kept: Tensor, count: int) -> None:
    width = hidden.shape[1]
    strides = hidden.stride(0), 0 if residual is None else residual.stride(0)
    _keep[(count, triton.cdiv(width, BLOCK))](hidden, residual, rows, kept, len(hidden), width, *strides, BLOCK)


def _take_tokens_on_device(
    token_ids: Tensor, positions: Tensor, rows: Tensor, tokens_out: Tensor, positions_out: Tensor, count: int
) -> None:
    sizes = len(token_ids), count
    _take[(triton.cdiv(count, BLOCK),)](token_ids, positions, rows, tokens_out, positions_out, *sizes, BLOCK)


if triton is not None:
    # vLLM's dummy batches do not call LatentStates.begin, so `rows` is stale: it is clamped to this step's tokens.
    @triton.jit(do_not_specialize=["tokens"])
    def _keep(
        hidden,  # (tokens, width)
        residual,  # (tokens, width) or None
        rows,  # (count,)
        kept,  # (count, width) out
        tokens,
        width,
        hidden_stride,
        residual_stride,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        token = tl.minimum(tl.load(rows + row), tokens - 1)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < width
        state = tl.load(hidden + token * hidden_stride + column, mask=inside)
        if residual is not None:
            other = tl.load(residual + token * residual_stride + column, mask=inside)
            state = (state.to(tl.float32) + other.to(tl.float32)).to(state.dtype)  # rounded once, as torch adds
        tl.store(kept + row * width + column, state, mask=inside)

    @triton.jit(do_not_specialize=["tokens", "count"])
    def _take(
        token_ids,  # (tokens,)
        positions,  # (tokens,)
        rows,  # (count,)
        tokens_out,  # (count,)
        positions_out,  # (count,)
        tokens,
        count,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = row < count
        token = tl.minimum(tl.load(rows + row, mask=inside, other=0), tokens - 1)
        tl.store(tokens_out + row, tl.load(token_ids + token, mask=inside).to(tl.int64), mask=inside)
        tl.store(positions_out + row, tl.load(positions + token, mask=inside).to(tl.int64), mask=inside)
