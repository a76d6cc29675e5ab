"""Estimates with intervals: pass@k, means, ratios and paired differences over problems.

Problems are the independent units. The samples of one problem share its difficulty, so every interval and every test
resamples whole problems (or whole chunks, for time); a mean over all samples would look far more certain than it is.

Bootstrap intervals are percentile intervals with tails widened to Student's t ("expanded percentile", T. Hesterberg,
"What Teachers Should Know About the Bootstrap", 2015): plain percentiles are too narrow for few units. With fewer than
8 units, where resamples take few distinct values, they are t intervals on the bootstrap's standard error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

LEVEL = 0.95
Z95 = 1.96  # standard errors on either side of a mean
RESAMPLES = 4000
FEW_UNITS = 8
Floats = NDArray[np.float64]
_BLOCK = 1 << 22  # resampled numbers held at once


@dataclass(frozen=True)
class Estimate:
    """A number, its interval and the count of independent units behind it. NaN: not estimable from what there is."""

    value: float
    low: float
    high: float
    n: int
    p_value: float | None = None  # differences only: two-sided, of "no difference"


UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0)


def pass_at_k(samples: ArrayLike, correct: ArrayLike, k: int) -> Floats:
    """Unbiased probability that at least one of k samples is right, per problem: 1 - C(n-c, k) / C(n, k).

    M. Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374.

    Args:
        samples: (problems,) n, samples drawn for each problem.
        correct: (problems,) c, how many of them are right.

    Returns:
        (problems,) NaN where fewer than k samples were drawn.
    """
    n, c = np.broadcast_arrays(np.asarray(samples, dtype=np.int64), np.asarray(correct, dtype=np.int64))
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if (c < 0).any() or (c > n).any():
        raise ValueError("correct must lie between 0 and samples")
    drawn = np.arange(k)
    left = np.maximum(n[..., None] - drawn, 1)  # (problems, k) samples left before each draw
    wrong = np.maximum((n - c)[..., None] - drawn, 0)
    return np.where(n >= k, 1.0 - np.prod(wrong / left, axis=-1), np.nan)


def wilson_interval(successes: float, n: int, level: float = LEVEL) -> Estimate:
    """Wilson's score interval of a proportion of n independent trials (E. B. Wilson, 1927)."""
    if n == 0:
        return UNKNOWN
    p = successes / n
    if float(successes).is_integer():
        interval = stats.binomtest(int(successes), n).proportion_ci(level, method="wilson")
        return Estimate(p, float(interval.low), float(interval.high), n)
    z = stats.norm.ppf((1 + level) / 2)  # the same formula, for a mean rate that is no count
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Estimate(p, max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)), n)


def mean_interval(values: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean over units with a bootstrap interval; NaN units are left out of the mean and of n."""
    return _bootstrap(_rows(values), _first, level, resamples, seed)


def proportion_interval(
    values: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean over problems of a rate in [0, 1].

    Where every value is 0 or 1, or all are equal, a bootstrap is at its worst (all right: width zero); there the
    interval is Wilson's, which is wider than need be for equal rates strictly between 0 and 1.
    """
    rates = _rows(values)
    if rates.size and (rates.min() < 0 or rates.max() > 1):
        raise ValueError("proportion_interval takes rates between 0 and 1")
    if np.isin(rates, (0.0, 1.0)).all() or np.ptp(rates) == 0:
        return wilson_interval(float(rates.sum()), len(rates), level)
    return _clip(_bootstrap(rates, _first, level, resamples, seed), 0.0, 1.0)


def ratio_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Sum of numerators / sum of denominators over units (tokens per second over chunks), none of them negative."""
    return _clip(_bootstrap(_rows(numerators, denominators), _ratio, level, resamples, seed), 0.0, math.inf)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    bound: float | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean of a - b over the same problems, with a bootstrap interval and the sign-flip test's p-value.

    Args:
        bound: largest possible |a - b| (1 for rates). Where every problem shows the same difference, the interval is
            not of width zero: it allows for the rate of other differences that n problems cannot exclude.
    """
    pairs = _rows(a, b)
    differences = pairs[:, :1] - pairs[:, 1:]
    estimate = _bootstrap(differences, _first, level, resamples, seed)
    if bound is not None and estimate.n and np.ptp(differences) == 0:
        slack = bound * wilson_interval(0, estimate.n, level).high
        estimate = Estimate(estimate.value, estimate.value - slack, estimate.value + slack, estimate.n)
    if bound is not None:
        estimate = _clip(estimate, -bound, bound)
    return replace(estimate, p_value=sign_flip_test(differences[:, 0], resamples=resamples, seed=seed))


def ratio_difference(
    a: tuple[ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike],
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Difference of two ratios of sums, (numerators, denominators) each, over the same units."""

    def difference(means: Floats) -> Floats:
        return _ratio(means[..., :2]) - _ratio(means[..., 2:])

    return _bootstrap(_rows(*a, *b), difference, level, resamples, seed)


def sign_flip_test(differences: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of "the differences are symmetric about 0", by flipping their signs.

    Exact where all sign patterns are fewer than `resamples`, else sampled and never 0. NaN without differences.
    """
    d = _rows(differences)[:, 0]
    if not d.size:
        return math.nan
    if d.size == 1 or not d.any():
        return 1.0
    test = stats.permutation_test(
        (d,),
        lambda values, axis: values.sum(axis=axis),
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        batch=max(1, _BLOCK // d.size),
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def _bootstrap(
    rows: Floats, statistic: Callable[[Floats], Floats], level: float, resamples: int, seed: int
) -> Estimate:
    """Interval of `statistic(column means)`; rows: (n, columns), resampled with replacement."""
    n = len(rows)
    if n == 0:
        return UNKNOWN
    value = float(statistic(rows.mean(axis=0)))
    if n == 1:
        return Estimate(value, math.nan, math.nan, 1)
    generator = np.random.default_rng(seed)
    replicates = []
    for block in _blocks(resamples, n * rows.shape[1]):
        index = generator.integers(0, n, (block, n))  # (resamples, n)
        replicates.append(statistic(rows[index].mean(axis=1)))
    deviations = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1)
    if n < FEW_UNITS:
        half = deviations * np.concatenate(replicates).std()
        return Estimate(value, value - half, value + half, n)
    tail = stats.norm.cdf(-deviations)
    low, high = np.quantile(np.concatenate(replicates), (tail, 1 - tail))
    return Estimate(value, float(low), float(high), n)


def _clip(estimate: Estimate, least: float, most: float) -> Estimate:
    """Estimate with an interval inside the possible values; NaN stays NaN."""
    low, high = (float(np.clip(end, least, most)) for end in (estimate.low, estimate.high))
    return replace(estimate, low=low, high=high)


def _rows(*columns: ArrayLike) -> Floats:
    """(n, columns) of equally long columns, without the rows that hold a NaN."""
    arrays = [np.asarray(column, dtype=np.float64).reshape(-1) for column in columns]
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(f"paired values must be equally many, got {[len(array) for array in arrays]}")
    rows = np.stack(arrays, axis=1)
    return rows[~np.isnan(rows).any(axis=1)]


def _blocks(resamples: int, numbers_per_resample: int) -> list[int]:
    """Sizes that add up to `resamples` and keep a block's memory bounded."""
    size = max(1, min(resamples, _BLOCK // max(1, numbers_per_resample)))
    return [size] * (resamples // size) + [resamples % size] * (resamples % size > 0)


def _first(means: Floats) -> Floats:
    return means[..., 0]


def _ratio(means: Floats) -> Floats:
    return means[..., 0] / means[..., 1]


def shows_difference(estimate: Estimate, level: float = 0.05) -> bool:
    """Whether the interval lies on one side of 0 and the test, where there is one, agrees (p < `level`)."""
    p = estimate.p_value
    return (estimate.low > 0 or estimate.high < 0) and (p is None or math.isnan(p) or p < level)
