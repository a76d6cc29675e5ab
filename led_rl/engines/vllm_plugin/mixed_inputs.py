"""Mixes of token embeddings in the place of single ones, where the model embeds its input."""

import functools
from typing import Any

import torch
from torch import Tensor


class MixedInputs:
    """What goes into the model in the place of token embeddings.

    Buffers made with the model, so that captured graphs read them: whether a token is replaced is decided on the
    device.

    Attributes:
        on: (tokens,) bool: tokens of the step that are replaced.
        values: (tokens, hidden) what replaces them, in the model's dtype.
        embed: the model's embedding layer.
        used: whether some token of the coming step may be replaced; layers that run as Python on a CPU ask.
    """

    def __init__(self, embed: Any, tokens: int, hidden: int, dtype: torch.dtype):
        self.on = torch.zeros(tokens, dtype=torch.bool)
        self.values = torch.zeros(tokens, hidden, dtype=dtype)
        self.used = False
        self.embed = embed
        self._plain = type(embed).forward
        embed.__class__ = mixing(type(embed))  # type: ignore[arg-type]
        embed.led_mixes, embed.led_on, embed.led_values = self, self.on, self.values

    def clear(self) -> None:
        if self.used:
            self.on.zero_()
        self.used = False

    def put(self, tokens: Tensor, ids: Tensor, weights: Tensor, on: Tensor) -> None:
        """Replaces (n,) tokens of the coming step, those that are `on`, by mixes (n, k) of ids with float32 weights.

        A mix whose weights are all 0 is none.
        """
        n, k = ids.shape
        embedded = self._plain(self.embed, ids.flatten()).view(n, k, -1)
        self.values[tokens] = (embedded.float() * weights[..., None]).sum(1).to(self.values.dtype)
        self.on[tokens] = on & (weights.sum(-1) > 0)
        self.used = True


def replaced(embedded: Tensor, on: Tensor, values: Tensor) -> Tensor:
    """(tokens, hidden) embeddings, with `values` where tokens are `on`."""
    tokens = embedded.shape[0]
    return torch.where(on[:tokens, None], values[:tokens], embedded)


@functools.cache
def mixing(layer_class: Any) -> type:
    """Subclass of an embedding layer that gives mixes where the step says so; attributes and weights are its own."""

    def forward(self, input_):
        embedded = layer_class.forward(self, input_)
        if torch.compiler.is_compiling():  # an operator that the compiler neither traces into nor drops
            return torch.ops.vllm.led_rl_replaced(embedded, self.led_on, self.led_values)
        if not (self.led_mixes.used or embedded.is_cuda):  # a graph is captured in a step without requests
            return embedded
        return replaced(embedded, self.led_on, self.led_values)

    return type(f"Mixing{layer_class.__name__}", (layer_class,), {"forward": forward})
