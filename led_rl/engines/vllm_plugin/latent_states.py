"""Latent states of the rows that will be sampled: the buffers they lie in, and the layers that fill them."""

import functools
from typing import Any

import torch
from torch import Tensor

from led_rl.engines.vllm_plugin.row_copies import keep_every_row, keep_rows, take_tokens


class LatentStates:
    """Buffers for the rows of one step that are sampled; valid from the model's forward to the next one's.

    Attributes:
        rows: (max_rows,) int64 index of each sampled row among the step's tokens; 0 beyond the step's rows.
        tokens, positions: (max_rows,) int64 token fed in at each row, and its position in the sequence.
        states: (layers, max_rows, hidden) residual stream that enters each captured layer, in the model's dtype.
    """

    def __init__(self, layers: int, max_rows: int, hidden: int, dtype: torch.dtype):
        self.rows = torch.zeros(max_rows, dtype=torch.int64)
        self.tokens = torch.zeros(max_rows, dtype=torch.int64)
        self.positions = torch.zeros(max_rows, dtype=torch.int64)
        self.states = torch.zeros(layers, max_rows, hidden, dtype=dtype)
        self.count = 0
        self.views: list[Tensor] = []  # the step's rows of `tokens`, `positions` and each layer's states
        self.idle = False  # the step has no LED request: layers that run as Python keep nothing

    def begin(self, rows: Tensor) -> None:
        """Says which tokens of the coming step are sampled, (rows,) ascending; before the model's forward."""
        self.idle = False
        fits = rows.shape[0] <= self.rows.shape[0]  # not always with draft tokens, where LED is refused
        count = rows.shape[0] if fits else 0
        if count < self.count:
            self.rows[count:].zero_()  # a padded CUDA graph reads on beyond the step's rows
        if count != self.count:
            self.count = count
            self.views = [buffer[:count] for buffer in (self.tokens, self.positions, *self.states)]
        self.rows[:count].copy_(rows[:count])

    def skip(self) -> None:
        """Says that the coming step has no LED request: layers that run as Python on a CPU keep nothing.

        Compiled layers and CUDA graphs copy rows whatever is said here. So the row list is emptied: otherwise they
        would read rows of an earlier, longer step.
        """
        if self.count:
            self.begin(self.rows[:0])
        self.idle = True

    def take(self, token_ids: Tensor, positions: Tensor) -> None:
        """Keeps the ids and positions of the step's tokens, (tokens,), at its rows."""
        if self.samples_all(token_ids):
            self.views[0].copy_(token_ids)
            self.views[1].copy_(positions)
        else:
            take_tokens(token_ids, positions, self.rows, self.tokens, self.positions)

    def samples_all(self, inputs: Tensor) -> bool:
        """Whether every token of the step is sampled.

        Always False on CUDA: this runs inside graphs, which cannot branch on a row count.
        """
        return inputs.shape[0] == self.count and not inputs.is_cuda

    def read(self, order: Tensor | tuple[int, ...], rows: Tensor | int) -> Tensor:
        """(n, depth, hidden) states of `rows` (n,), from their own layers (n, depth) or from those of every row.

        A number n stands for the first n rows: without a copy in the usual case, and in one operation in any.
        """
        if isinstance(rows, int):
            return self._read_first(order, rows)
        if isinstance(order, Tensor):
            return self.states[order, rows[:, None]]
        if order == tuple(range(len(order))):  # the usual case: the deepest layers in turn
            return self.states[: len(order)].index_select(1, rows).transpose(0, 1)
        return torch.stack([self.states[layer].index_select(0, rows) for layer in order], dim=1)

    def _read_first(self, order: Tensor | tuple[int, ...], rows: int) -> Tensor:
        states = self.states[:, :rows]  # (layers, n, hidden)
        if isinstance(order, Tensor):
            layers = order.T[:, :, None].expand(-1, -1, states.shape[2])  # (depth, n, hidden)
            return states.gather(0, layers).transpose(0, 1)
        if order == tuple(range(len(order))):
            return states[: len(order)].transpose(0, 1)
        return torch.stack([states[layer] for layer in order], dim=1)

    def check(self, rows: int) -> None:
        """Raises RuntimeError unless the states are those of `rows` rows, the number that will be sampled."""
        if self.count != rows:
            raise RuntimeError(
                f"LED is on for this batch of {rows} rows, but the model kept the states of {self.count}: the latent "
                "states were lost between the model and the sampler. Stopping, rather than sample without LED in "
                "silence."
            )

    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.rows, self.tokens, self.positions, self.states))


@functools.cache
def keeping(layer_class: Any) -> type:
    """Subclass of a decoder layer that keeps what enters it. Attributes, names and weights are the layer's own."""

    def forward(self, positions, hidden_states, residual, *args, **kwargs):
        # Within torch.compile the copy must be an operator that the compiler neither traces into nor drops.
        if torch.compiler.is_compiling():
            torch.ops.vllm.led_rl_keep_rows(hidden_states, residual, self.led_rows, self.led_kept)
        elif self.led_states.idle and not hidden_states.is_cuda:  # a graph is captured in a step without requests
            pass
        elif self.led_states.samples_all(hidden_states):
            keep_every_row(hidden_states, residual, self.led_states.views[self.led_view])
        else:
            keep_rows(hidden_states, residual, self.led_rows, self.led_kept)
        return layer_class.forward(self, positions, hidden_states, residual, *args, **kwargs)

    return type(f"Keeping{layer_class.__name__}", (layer_class,), {"forward": forward})
