"""Noise after decoder layers (led_rl/methods/latent_noise.py), at the tokens that a step says and at no other.

Which tokens they are, and how many, is known on the host alone: layers branch on it, so that an engine which admits
`latent_noise` runs them as Python, without CUDA graphs.
"""

import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from led_rl.methods.latent_noise import noise_of, normal
from led_rl.sampler.uniforms import streams

FIRST_STREAM = 1 << 20  # of a request's uniform numbers: two a layer from here on


class NoisyTokens(NamedTuple):
    """Tokens of a step that get noise."""

    tokens: Tensor  # (n,) index among the step's tokens
    keys: Tensor  # (n,) int64 key of the request's numbers
    positions: Tensor  # (n,) int64 of the token in its sequence
    scale: Tensor  # (n,) in units of the state's root mean square
    layers: Sequence[Collection[int]]  # (n,) after which each gets it


class LayerNoise:
    """The noise of the coming step, `parts`, after some of a model's decoder layers."""

    def __init__(self, layers: Sequence[Any]):
        self.parts: list[NoisyTokens] = []
        for number, layer in enumerate(layers):
            layer.__class__ = noisy(type(layer))  # type: ignore[arg-type]
            layer.led_noise, layer.led_number = self, number

    def clear(self) -> None:
        self.parts.clear()

    def put(self, *part: Any) -> None:
        """Adds tokens that get noise, given as the fields of `NoisyTokens`."""
        self.parts.append(NoisyTokens(*part))

    def after(self, layer: int, hidden: Tensor, residual: Tensor | None) -> Tensor:
        """(tokens, size) output of a layer, of which the residual stream is the sum with `residual`, with its noise."""
        for part in self.parts:
            chosen = [i for i, layers in enumerate(part.layers) if layer in layers]
            if not chosen:
                continue
            tokens, keys, positions, scale = part[:4]
            if len(chosen) < len(part.layers):
                rows = torch.tensor(chosen, device=hidden.device)
                tokens, keys, positions, scale = (t[rows] for t in (tokens, keys, positions, scale))
            mine = hidden[tokens]
            states = mine if residual is None else mine.float() + residual[tokens].float()
            first, second = (streams(keys, positions, FIRST_STREAM + 2 * layer + i, hidden.shape[1]) for i in range(2))
            noise = noise_of(states, scale, normal(first, second))
            hidden = hidden.index_copy(
                0, tokens, torch.where((scale > 0)[:, None], (mine + noise).to(mine.dtype), mine)
            )
        return hidden


@functools.cache
def noisy(layer_class: Any) -> type:
    """Subclass of a decoder layer that adds noise to what it gives; attributes and weights are the layer's own."""

    def forward(self, positions, hidden_states, residual, *args, **kwargs):
        hidden, residual = layer_class.forward(self, positions, hidden_states, residual, *args, **kwargs)
        if self.led_noise.parts:
            hidden = self.led_noise.after(self.led_number, hidden, residual)
        return hidden, residual

    return type(f"Noisy{layer_class.__name__}", (layer_class,), {"forward": forward})
