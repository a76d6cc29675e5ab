import math

import numpy as np
import pytest
from scipy import stats

from led_rl.evaluation.estimates import mean_interval
from led_rl.study.crossed import critical, crossed_mean, detectable, variance_parts


def drawn(rng, seeds, problems, of_seeds, of_problems, rest, mean=0.0):
    return (
        mean
        + of_seeds * rng.normal(size=(seeds, 1))
        + of_problems * rng.normal(size=(1, problems))
        + rest * rng.normal(size=(seeds, problems))
    )


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("problems", [60, 500])
@pytest.mark.parametrize(
    ("of_seeds", "of_problems", "rest"),
    [(0.0, 0.0, 1.0), (0.5, 0.0, 0.5), (0.95, 0.0, 0.05), (0.0, 0.5, 0.5), (0.5, 0.45, 0.05), (0.8, 0.19, 0.01)],
)  # shares of the mean's variance
def test_true_nulls_are_rejected_no_more_often_than_the_level_says(seeds, problems, of_seeds, of_problems, rest):
    """Many layouts at once: their mean squares are independent chi-squares (Scheffé, chapter 7)."""
    rng, tries = np.random.default_rng(0), 40_000
    freedom = (seeds - 1, problems - 1, (seeds - 1) * (problems - 1))
    shares = (of_seeds + rest, of_problems + rest, rest)
    a, b, r = (share * rng.chisquare(df, tries) / df for share, df in zip(shares, freedom, strict=True))
    means = np.abs(rng.normal(size=tries))
    for level, times in ((0.05, 1.06), (0.05 / 9, 1.45)):
        parts = variance_parts(a, b, r, seeds, problems)
        rejected = means > critical(parts, level) * np.sqrt(sum(part for part, _ in parts))
        assert rejected.mean() < times * level


def test_the_parts_of_the_variance_are_those_of_the_layout():
    """Against the mean squares of an ordinary analysis of variance; the interval covers as often as it says."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        values = drawn(rng, 3, 60, 0.1, 0.2, 1.0, 0.3)
        estimate = crossed_mean(values, difference=True)
        covered += estimate.low <= 0.3 <= estimate.high
        between = [((values.mean(axis=axis) - values.mean()) ** 2).sum() * n for axis, n in ((1, 60), (0, 3))]
        within = ((values - values.mean()) ** 2).sum() - sum(between)
        a, b, r = (square / df / values.size for square, df in zip((*between, within), (2, 59, 118), strict=True))
        parts = variance_parts(a, b, r, 3, 60)
        half = critical(parts, 0.05) * math.sqrt(sum(part for part, _ in parts))
        assert estimate.high - estimate.value == pytest.approx(half)
        assert critical(parts, estimate.p_value) * half / critical(parts, 0.05) == pytest.approx(abs(estimate.value))
    assert covered / 300 > 0.93


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("level", [0.05, 0.05 / 9])
def test_the_detectable_effect_has_its_power(share, level):
    """Three seeds; `share` of the mean's variance is theirs. Other draws than those the function makes."""
    parts = ((share, 2), (1 - share, 99))
    rng, tries = np.random.default_rng(7), 40_000
    drawn_parts = [(part * rng.chisquare(df, tries) / df, df) for part, df in parts]
    limits = critical(drawn_parts, level) * np.sqrt(sum(part for part, _ in drawn_parts))
    found = np.abs(rng.normal(detectable(parts, level), 1, tries)) > limits
    assert found.mean() == pytest.approx(0.8, abs=0.015)


def test_seeds_alone_give_the_power_of_the_ordinary_t_test():
    parts = ((1.0, 2), (0.0, 99))
    power = stats.nct.sf(stats.t.isf(0.025, 2), 2, detectable(parts, 0.05))
    assert power == pytest.approx(0.8, abs=0.01)


def test_a_detectable_effect_is_detected_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = []
    typical = np.median(
        [crossed_mean(drawn(rng, 5, 80, 0.1, 0.3, 1.0), difference=True).detectable for _ in range(200)]
    )
    for _ in range(400):
        found.append(crossed_mean(drawn(rng, 5, 80, 0.1, 0.3, 1.0, typical), difference=True).p_value < 0.05)
    assert 0.68 < np.mean(found) < 0.92


def test_a_detectable_effect_grows_with_the_claims_that_are_tested_together():
    values = drawn(np.random.default_rng(4), 3, 80, 0.1, 0.3, 1.0)
    for layout in (values, values[:1]):
        alone, among_nine = (crossed_mean(layout, difference=True, tests=n).detectable for n in (1, 9))
        assert among_nine > 1.2 * alone


def test_shares_and_their_differences_stay_in_their_range():
    values = np.random.default_rng(5).random((2, 4)).round()
    share, of_difference = crossed_mean(values, bound=1.0), crossed_mean(-values, difference=True, bound=1.0)
    assert (share.low, share.high) == (0.0, 1.0)
    assert (of_difference.low, of_difference.high) == (-1.0, 1.0)


def test_seeds_that_differ_weigh_more_than_problems():
    """With nothing but seeds that differ it is the t interval over the seeds."""
    of_seeds = np.array([0.1, 0.3, 0.5])
    estimate = crossed_mean(np.repeat(of_seeds[:, None], 50, axis=1), difference=True)
    low, high = stats.t.interval(0.95, 2, of_seeds.mean(), stats.sem(of_seeds))
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))
    assert estimate.p_value == pytest.approx(stats.ttest_1samp(of_seeds, 0).pvalue)
    assert estimate.n == 50


def test_one_seed_is_the_bootstrap_over_problems():
    values = np.random.default_rng(2).random((1, 40))
    assert crossed_mean(values) == mean_interval(values[0])


def test_problems_without_a_value_are_left_out_for_every_seed():
    values = np.random.default_rng(3).random((3, 10))
    holed = values.copy()
    holed[1, 4] = math.nan
    assert crossed_mean(holed) == crossed_mean(np.delete(values, 4, axis=1))


def test_equal_cells_differ_by_nothing():
    estimate = crossed_mean(np.zeros((3, 20)), difference=True)
    assert (estimate.value, estimate.p_value) == (0.0, 1.0)
