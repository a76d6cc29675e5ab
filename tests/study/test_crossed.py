import math

import numpy as np
import pytest
from scipy import stats

from led_rl.evaluation.estimates import mean_interval
from led_rl.study.crossed import crossed_mean


def drawn(rng, seeds, problems, of_seeds, of_problems, rest, mean=0.0):
    return (
        mean
        + of_seeds * rng.normal(size=(seeds, 1))
        + of_problems * rng.normal(size=(1, problems))
        + rest * rng.normal(size=(seeds, problems))
    )


@pytest.mark.parametrize(("of_seeds", "of_problems", "rest"), [(0.1, 0.2, 1.0), (0.5, 0.0, 1.0), (0.0, 1.0, 1.0)])
def test_intervals_cover_the_truth_as_often_as_they_say(of_seeds, of_problems, rest):
    """Whatever varies most: seeds, problems or neither; too wide is allowed, too narrow is not."""
    rng = np.random.default_rng(0)
    tries, covered = 600, 0
    for _ in range(tries):
        estimate = crossed_mean(drawn(rng, 3, 60, of_seeds, of_problems, rest, 0.3), difference=True)
        covered += estimate.low <= 0.3 <= estimate.high
    assert covered / tries > 0.925


def test_a_detectable_effect_is_detected_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = []
    typical = np.median(
        [crossed_mean(drawn(rng, 5, 80, 0.1, 0.3, 1.0), difference=True).detectable for _ in range(200)]
    )
    for _ in range(400):
        found.append(crossed_mean(drawn(rng, 5, 80, 0.1, 0.3, 1.0, typical), difference=True).p_value < 0.05)
    assert 0.68 < np.mean(found) < 0.92


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
