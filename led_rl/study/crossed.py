"""Means over seeds x problems, where both are drawn at random: every seed meets every problem.

With d[s, p] = mean + seed[s] + problem[p] + rest[s, p], a_s the means of seeds and b_p those of problems,

    var(mean of d) ~ var(a) / S + var(b) / P - var(rest) / (S P)

where var(a) and var(b) each hold a share of var(rest), which is therefore taken off once (the two-way layout with
random effects: H. Scheffé, "The Analysis of Variance", 1959, chapter 7). The interval and the test are Student's t with
Satterthwaite's degrees of freedom: three seeds that differ say little, however many problems there are.

With one seed there is no telling how much seeds differ: intervals are then over problems alone (estimates.py).
"""

import math

import numpy as np
from scipy import stats

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


def crossed_mean(values: Floats, *, difference: bool = False, bound: float | None = None) -> Estimate:
    """Mean of (seeds, problems) values with its interval; `n` counts problems.

    Problems with a NaN under some seed are left out.

    Args:
        difference: adds the p-value of "no difference" and the smallest true difference that is shown with a power of
            80 %.
        bound: largest possible |value| (1 for shares and their differences): the interval's measure where all values
            are equal.
    """
    values = np.atleast_2d(values)
    values = values[:, ~np.isnan(values).any(axis=0)]
    seeds, problems = values.shape
    if problems < 2:
        return UNKNOWN
    if seeds == 1:
        return _over_problems(values[0], difference, bound)
    mean = float(values.mean())
    of_seeds, of_problems = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seeds[:, None] - of_problems[None, :] + mean
    parts: tuple[tuple[float, int], ...] = (  # variance of the mean, degrees of freedom
        (float(of_seeds.var(ddof=1)) / seeds, seeds - 1),
        (float(of_problems.var(ddof=1)) / problems, problems - 1),
        (-float((rest**2).sum()) / ((seeds - 1) * (problems - 1)) / (seeds * problems), (seeds - 1) * (problems - 1)),
    )
    # The subtraction may leave less than either source alone accounts for: then the larger source alone counts.
    total = sum(part for part, _ in parts)
    variance = max(total, parts[0][0], parts[1][0])
    if variance <= 0:
        return _over_problems(of_problems, difference, bound)
    if variance > total:
        parts = parts[:1] if parts[0][0] >= parts[1][0] else parts[1:2]
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    error = math.sqrt(variance)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    if not difference:
        return Estimate(mean, mean - half, mean + half, problems)
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    shown_from = half + float(stats.t.ppf(POWER, freedom)) * error
    return Estimate(mean, mean - half, mean + half, problems, p_value=p_value, detectable=shown_from)


def _over_problems(values: Floats, difference: bool, bound: float | None) -> Estimate:
    if difference:
        return paired_difference(values, np.zeros(len(values)), bound=bound)
    return mean_interval(values) if bound is None else proportion_interval(values)
