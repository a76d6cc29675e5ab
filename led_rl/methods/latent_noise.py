"""Gaussian noise in middle layers while a sequence thinks, the stronger the less sure the model was of its last token.

This is what a third-party article takes LED for; it is kept as a baseline. The residual stream h that leaves a chosen
layer becomes h + noise_scale (1 - confidence) RMS(h) z, z ~ N(0, 1) in each component: `confidence` is the final
layer's largest probability, at the request's temperature, in the step that drew the token fed in. Pure functions of
tensors.
"""

import math

import torch
from torch import Tensor


def middle_layers(num_layers: int) -> tuple[int, ...]:
    """The middle third of the layers 0 ... num_layers - 1, at least one of them."""
    first = num_layers // 3
    return tuple(range(first, max(first + 1, num_layers - num_layers // 3)))


def normal(first: Tensor, second: Tensor) -> Tensor:
    """Standard normal float32 from two uniform numbers in [0, 1) each (Box and Muller, 1958)."""
    return ((-2.0 * torch.log1p(-first)).sqrt() * (2.0 * math.pi * second).cos()).float()


def noise_of(states: Tensor, scale: Tensor, numbers: Tensor) -> Tensor:
    """What is added to (n, size) states: `scale` (n,) times their root mean square times normal `numbers` (n, size)."""
    rms = states.float().square().mean(-1, keepdim=True).sqrt()
    return scale.float()[:, None] * rms * numbers
