"""Tests of paired differences, and the correction for many of them."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

MANY_UNITS, SMALL_P, FLIPS = 200, 0.02, 100_000


def sign_flip_test(differences: ArrayLike, *, resamples: int = 4000, seed: int = 0) -> float:
    """Two-sided p-value of the null hypothesis "the differences are symmetric about 0", by flipping their signs.

    Every sign pattern is counted where there are fewer than `resamples` of them; otherwise patterns are sampled. A
    small p-value is sampled again with more patterns, since a correction for many comparisons multiplies its error;
    from 200 differences on, the normal approximation gives small p-values instead. NaN without differences.
    """
    d = np.asarray(differences, dtype=np.float64).reshape(-1)
    d = d[~np.isnan(d)]
    if not d.size:
        return math.nan
    if d.size == 1 or not d.any():
        return 1.0
    exact = 2**d.size <= resamples
    p_value = _share_as_large(_all_signs(d.size) if exact else _drawn_signs(d.size, resamples, seed), d, exact)
    if exact or p_value > SMALL_P:
        return p_value
    if d.size >= MANY_UNITS:
        return float(2 * stats.norm.sf(abs(d.sum()) / math.sqrt((d * d).sum())))
    return _share_as_large(_drawn_signs(d.size, FLIPS, seed + 1), d, exact)


def _share_as_large(signs: NDArray[np.int8], differences: NDArray[np.float64], exact: bool) -> float:
    """Share of the sign patterns, (patterns, n), whose sum is as far from 0 as the observed one, itself counted."""
    observed = abs(differences.sum()) * (1 - 1e-9)
    as_large = sum(int((np.abs(block @ differences) >= observed).sum()) for block in np.array_split(signs, 16))
    return as_large / len(signs) if exact else (1 + as_large) / (1 + len(signs))


def _all_signs(n: int) -> NDArray[np.int8]:
    return 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.int8)


@lru_cache(maxsize=6)
def _drawn_signs(n: int, patterns: int, seed: int) -> NDArray[np.int8]:
    bits = np.random.default_rng(seed).integers(0, 256, (patterns, -(-n // 8)), np.uint8)
    return 1 - 2 * np.unpackbits(bits, axis=1, count=n).astype(np.int8)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected so that the chance of any false difference among them all stays below the level.

    S. Holm, "A simple sequentially rejective multiple test procedure", 1979. NaN stays NaN and does not count.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        corrected[i] = largest
    return corrected
