"""Means over seeds x problems, where both are drawn at random: every seed meets every problem.

With d[s, p] = mean + seed[s] + problem[p] + rest[s, p], a_s the means of seeds and b_p those of problems,

    var(mean of d) ~ var(a) / S + var(b) / P - var(rest) / (S P)

where var(a) and var(b) each hold a share of var(rest), which is therefore taken off once (the two-way layout with
random effects: H. Scheffé, "The Analysis of Variance", 1959, chapter 7). Seeds account for var(a) / S of it, known with
S - 1 degrees of freedom, and problems for what is left, known with P - 1. The critical value is the mean of the two
Student's t quantiles, weighted by these parts (the approximate t-test of W. G. Cochran and G. M. Cox, "Experimental
Designs", 2nd edition, 1957): three seeds that differ say little, however many problems there are. With three seeds and
a true null it rejects at most as often as it says at the level 0.05, and at most 1.3 times as often at the small levels
of Holm's correction; less where seeds do not differ. Satterthwaite's degrees of freedom, the usual choice, reject up to
1.5 and 7 times as often (simulated; tests/study/test_crossed.py holds this rule to it).

With one seed there is no telling how much seeds differ: intervals are then over problems alone (estimates.py).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import optimize, stats

from led_rl.evaluation.estimates import (
    LEVEL,
    UNKNOWN,
    Estimate,
    Floats,
    mean_interval,
    paired_difference,
    proportion_interval,
)

POWER = 0.8
DRAWS = 4000  # of variances that a study like this one might find
Parts = Sequence[tuple[Any, int]]  # of the mean's variance: (variance or an array of them, degrees of freedom)


def crossed_mean(values: Floats, *, difference: bool = False, bound: float | None = None, tests: int = 1) -> Estimate:
    """Mean of (seeds, problems) values with its interval; `n` counts problems.

    Problems with a NaN under some seed are left out.

    Args:
        difference: adds the p-value of "no difference" and the smallest true difference that is shown with a power of
            80 % if it is the only true one among `tests` claims.
        bound: largest possible |value| (1 for shares and their differences); the interval ends there, and where all
            values are equal it is the interval's measure.
        tests: claims whose p-values are corrected together (Holm).
    """
    values = np.atleast_2d(values)
    values = values[:, ~np.isnan(values).any(axis=0)]
    seeds, problems = values.shape
    if problems < 2:
        return UNKNOWN
    if seeds == 1:
        return _over_problems(values[0], difference, bound, tests)
    mean = float(values.mean())
    of_seeds, of_problems = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seeds[:, None] - of_problems[None, :] + mean
    by_seeds, by_problems = float(of_seeds.var(ddof=1)) / seeds, float(of_problems.var(ddof=1)) / problems
    by_rest = float((rest**2).sum()) / ((seeds - 1) * (problems - 1)) / (seeds * problems)
    parts = variance_parts(by_seeds, by_problems, by_rest, seeds, problems)
    error = math.sqrt(sum(part for part, _ in parts))
    if error == 0:
        return _over_problems(of_problems, difference, bound, tests)
    half = critical(parts, 1 - LEVEL) * error
    low, high = mean - half, mean + half
    if bound is not None:
        low, high = max(low, -bound if difference else 0.0), min(high, bound)
    if not difference:
        return Estimate(mean, low, high, problems)
    p_value, least = _p_value(parts, abs(mean) / error), detectable(parts, (1 - LEVEL) / tests)
    return Estimate(mean, low, high, problems, p_value=p_value, detectable=least)


def variance_parts(by_seeds: Any, by_problems: Any, by_rest: Any, seeds: int, problems: int) -> Parts:
    """The variance of the mean, as the parts of seeds and of problems; the whole is at least either source alone.

    Args:
        by_seeds, by_problems, by_rest: mean squares / (seeds * problems), numbers or arrays of one shape.
    """
    left = np.maximum(0.0, by_problems - by_rest) + np.maximum(0.0, by_rest - by_seeds)
    return (by_seeds, seeds - 1), (left, problems - 1)


def critical(parts: Parts, level: float) -> Any:
    """What |mean| / standard error exceeds with probability `level` by chance (Cochran and Cox)."""
    quantiles = (part * float(stats.t.isf(level / 2, freedom)) for part, freedom in parts)
    return sum(quantiles) / sum(part for part, _ in parts)


def _p_value(parts: Parts, statistic: float) -> float:
    """The level at which `statistic` is the critical value; 0 stands for all below 1e-30."""
    if statistic == 0:
        return 1.0
    least = math.log(1e-30)
    if critical(parts, math.exp(least)) <= statistic:
        return 0.0
    return math.exp(optimize.brentq(lambda log: critical(parts, math.exp(log)) - statistic, least, 0.0, xtol=1e-9))


def detectable(parts: Parts, level: float) -> float:
    """The mean that the test finds at this level with a probability of POWER, if `parts` were the true variances."""
    rng = np.random.default_rng(0)
    drawn = [(part * rng.chisquare(freedom, DRAWS) / freedom, freedom) for part, freedom in parts]
    limits = critical(drawn, level) * np.sqrt(sum(part for part, _ in drawn))  # of |mean|
    error = math.sqrt(sum(part for part, _ in parts))

    def excess(mean: float) -> float:
        return float(stats.norm.sf((limits - mean) / error).mean()) - POWER

    return float(optimize.brentq(excess, 0.0, limits.max() + 10 * error))


def _over_problems(values: Floats, difference: bool, bound: float | None, tests: int) -> Estimate:
    if not difference:
        return mean_interval(values) if bound is None else proportion_interval(values)
    found = paired_difference(values, np.zeros(len(values)), bound=bound)
    if found.detectable is None:
        return found
    power = float(stats.norm.ppf(POWER))
    wider = (stats.norm.isf((1 - LEVEL) / 2 / tests) + power) / (stats.norm.isf((1 - LEVEL) / 2) + power)
    return replace(found, detectable=found.detectable * float(wider))
