"""Estimates with intervals: pass@k, means, ratios and paired differences over problems.

Problems are the independent units. The samples of one problem share its difficulty, so every interval and every test
resamples whole problems (or whole chunks, for time); a mean over all samples would look far more certain than it is.

Bootstrap intervals are percentile intervals with tails widened to Student's t ("expanded percentile", T. Hesterberg,
"What Teachers Should Know About the Bootstrap", 2015): plain percentiles are too narrow for few units. With fewer than
8 units, where resamples take few distinct values, they are t intervals on the bootstrap's standard error.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from led_rl.evaluation.significance import sign_flip_test

LEVEL = 0.95
Z95 = 1.96  # standard errors on either side of a mean
DETECTABLE = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))  # standard errors: level 5 %, power 80 %
RESAMPLES = 4000
FEW_UNITS = 8
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number, its interval and the count of independent units behind it. NaN: not estimable from what there is."""

    value: float
    low: float
    high: float
    n: int
    # of differences only:
    p_value: float | None = None  # two-sided, of "no difference"
    p_holm: float | None = None  # the same, corrected for everything that is shown beside it
    detectable: float | None = None  # the smallest true difference that so many units show with a power of 80 %


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
    p_value = sign_flip_test(differences[:, 0], resamples=resamples, seed=seed)
    return replace(estimate, p_value=p_value, detectable=_detectable([differences[:, 0]]))


def mean_of_means(
    strata: Sequence[ArrayLike], *, difference: bool = False, bound: float | None = None, seed: int = 0
) -> Estimate:
    """Unweighted mean of the means of several sets of units (benchmarks), each resampled by itself.

    Args:
        strata: values of each set's units; NaN units are left out.
        difference: the values are paired differences: adds the sign-flip test's p-value.
        bound: largest possible |value| (1 for rates); as in `paired_difference`.
    """
    columns = [_rows(values)[:, 0] for values in strata]
    if not columns or any(len(column) < 2 for column in columns):
        return UNKNOWN
    n, value = sum(map(len, columns)), float(np.mean([column.mean() for column in columns]))
    deviations = np.zeros(RESAMPLES)
    for i, column in enumerate(columns):
        size, around = len(column), column - column.mean()
        deviations += math.sqrt(size / (size - 1)) * (_weights(size, RESAMPLES, seed + i) @ around)
    deviations /= len(columns)
    quantile = stats.t.ppf((1 + LEVEL) / 2, n - len(columns))
    tail = stats.norm.cdf(-quantile)
    low, high = np.quantile(deviations, (tail, 1 - tail))
    if bound is not None and not deviations.any():
        slack = bound * wilson_interval(0, n).high
        low, high = -slack, slack
    estimate = Estimate(value, value + float(low), value + float(high), n)
    if bound is not None:
        estimate = _clip(estimate, -bound if difference else 0.0, bound)
    if not difference:
        return estimate
    weighted = np.concatenate([column / len(column) for column in columns])
    return replace(estimate, p_value=sign_flip_test(weighted, seed=seed), detectable=_detectable(columns))


def _detectable(columns: Sequence[Floats]) -> float:
    """The smallest mean (of means) of differences that a two-sided test at 5 % shows with a power of 80 %.

    NaN where all differences are equal: they do not tell how much differences vary.
    """
    if any(len(column) < 2 for column in columns):
        return math.nan
    variance = sum(float(column.var(ddof=1)) / len(column) for column in columns) / len(columns) ** 2
    return DETECTABLE * math.sqrt(variance) if variance else math.nan


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
    replicates = statistic(_weights(n, resamples, seed) @ rows)  # (resamples,)
    deviations = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1)
    if n < FEW_UNITS:
        half = deviations * replicates.std()
        return Estimate(value, value - half, value + half, n)
    tail = stats.norm.cdf(-deviations)
    low, high = np.quantile(replicates, (tail, 1 - tail))
    return Estimate(value, float(low), float(high), n)


@lru_cache(maxsize=4)
def _weights(n: int, resamples: int, seed: int) -> Floats:
    """(resamples, n) share of each unit in each resample with replacement; the same for every figure of n units."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples) / n


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


def _first(means: Floats) -> Floats:
    return means[..., 0]


def _ratio(means: Floats) -> Floats:
    return means[..., 0] / means[..., 1]


def shows_difference(estimate: Estimate, level: float = 0.05) -> bool:
    """Whether the interval lies on one side of 0 and the test, where there is one, agrees (p < `level`).

    The p-value is the corrected one where the estimate has it.
    """
    p = estimate.p_value if estimate.p_holm is None else estimate.p_holm
    return (estimate.low > 0 or estimate.high < 0) and (p is None or math.isnan(p) or p < level)
