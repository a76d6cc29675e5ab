"""Uniform numbers without a generator's state: each is a hash of a request's seed and a token's position alone.

So it depends neither on the batch nor on scheduling, and every runner and rank draws the same token.
SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

import torch
from torch import Tensor

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1


def key_of(seed: int) -> int:
    """64-bit key of a request's stream, as a signed integer; similar seeds get unrelated keys."""
    return _signed(_mixed((seed + _GOLDEN) & _MASK))


def uniforms(keys: Tensor, positions: Tensor) -> Tensor:
    """Float64 in [0, 1), multiples of 2**-52, from int64 keys and positions that broadcast."""
    x = keys + (positions + 1) * _signed(_GOLDEN)  # int64 arithmetic wraps around
    x = (x ^ _shifted(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shifted(x, 27)) * _signed(_MIX_2)
    x = x ^ _shifted(x, 31)
    return _shifted(x, 12).double() * 2.0**-52


def streams(keys: Tensor, positions: Tensor, which: int, count: int) -> Tensor:
    """(n, count) uniform numbers of each key and position, (n,), apart from `uniforms` and other streams `which`."""
    counters = positions[:, None] * count + torch.arange(count, device=keys.device)
    return uniforms((keys ^ key_of(which))[:, None], counters)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: torch's is arithmetic."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _mixed(x: int) -> int:
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x
