"""Estimates against brute force, closed forms and simulated coverage."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from led_rl.evaluation.estimates import (
    Estimate,
    mean_interval,
    mean_of_means,
    paired_difference,
    pass_at_k,
    proportion_interval,
    ratio_difference,
    ratio_interval,
    shows_difference,
    wilson_interval,
)
from led_rl.evaluation.significance import holm, sign_flip_test


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_equals_enumeration_of_all_subsets(n):
    for c in range(n + 1):
        outcomes = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(outcomes, k))
            expected = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k([n], [c], k)[0] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.data())
def test_pass_at_k_equals_the_binomial_formula(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    expected = 1 - math.comb(n - c, k) / math.comb(n, k)
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-9)


def test_pass_at_k_is_vectorised_and_leaves_out_problems_with_too_few_samples():
    values = pass_at_k([16, 16, 16, 8], [0, 16, 1, 8], 16)
    np.testing.assert_allclose(values, [0, 1, 1, np.nan])
    assert proportion_interval(values).n == 3
    np.testing.assert_allclose(pass_at_k([4, 4], [1, 3], 1), [0.25, 0.75])


@pytest.mark.parametrize("bad", [{"k": 0}, {"correct": [5]}, {"correct": [-1]}])
def test_pass_at_k_refuses_impossible_counts(bad):
    with pytest.raises(ValueError, match="must"):
        pass_at_k(**({"samples": [4], "correct": [1], "k": 1} | bad))


def test_pass_at_k_is_unbiased():
    generator = np.random.default_rng(0)
    solve_rate, n, k = 0.2, 10, 4
    values = pass_at_k(np.full(40_000, n), generator.binomial(n, solve_rate, 40_000), k)
    standard_error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - (1 - (1 - solve_rate) ** k)) < 4 * standard_error


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 10), (1, 1), (57, 300)])
def test_wilson_equals_scipy(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(0.95, "wilson")
    estimate = wilson_interval(successes, n)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (estimate.value, estimate.n) == (successes / n, n)


@pytest.mark.parametrize(("successes", "n"), [(3, 10), (57, 300), (1, 2)])
def test_wilson_s_formula_for_mean_rates_goes_on_from_whole_counts(successes, n):
    whole, fraction = wilson_interval(successes, n), wilson_interval(successes + 1e-9, n)
    assert (fraction.low, fraction.high) == pytest.approx((whole.low, whole.high), abs=1e-8)


def coverage(interval, truth, draws):
    covered = [estimate.low <= truth <= estimate.high for estimate in map(interval, draws)]
    return float(np.mean(covered))


@pytest.mark.parametrize("problems", [10, 20, 80])
def test_intervals_of_pass_rates_cover_at_the_nominal_rate(problems):
    """600 simulations of problems of varying difficulty x 16 samples: coverage within 4 standard errors of 95 %."""
    generator = np.random.default_rng(problems)
    difficulty = generator.beta(1.0, 1.5, (600, problems))
    rates = generator.binomial(16, difficulty) / 16
    rate = coverage(lambda row: proportion_interval(row, resamples=800), 0.4, rates)
    assert abs(rate - 0.95) < 4 * 0.0089


def test_difference_intervals_cover_and_the_test_holds_its_level():
    generator = np.random.default_rng(1)
    difficulty = generator.beta(1.0, 1.5, (600, 40))
    a, b = (generator.binomial(16, np.clip(difficulty + shift, 0, 1)) / 16 for shift in (0.0, 0.0))
    estimates = [paired_difference(x, y, bound=1.0, resamples=600) for x, y in zip(a, b, strict=True)]
    covered = np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates])
    rejected = np.mean([estimate.p_value < 0.05 for estimate in estimates])
    assert abs(covered - 0.95) < 4 * 0.0089
    assert abs(rejected - 0.05) < 4 * 0.0089


def test_ratio_intervals_cover():
    generator = np.random.default_rng(2)
    seconds = generator.gamma(20, 0.1, (600, 12))
    tokens = seconds * generator.normal(1000, 100, (600, 12))
    rate = coverage(lambda row: ratio_interval(row[0], row[1], resamples=600), 1000, zip(tokens, seconds, strict=True))
    assert abs(rate - 0.95) < 0.036


def test_few_chunks_still_cover():
    """Five skewed units, where plain percentiles cover about 80 %: at least 90 %."""
    values = np.random.default_rng(8).gamma(4, 0.25, (600, 5))
    rate = coverage(lambda row: mean_interval(row, resamples=600), 1.0, values)
    assert 0.9 <= rate <= 0.97


def test_intervals_of_rates_stay_in_the_unit_interval():
    estimate = proportion_interval([0.9, 1.0, 0.95])
    assert estimate.high == 1
    assert paired_difference([1, 1, 0.5], [0, 0, 0], bound=1.0).high == 1


def test_pairing_narrows_the_interval_of_a_difference():
    generator = np.random.default_rng(3)
    difficulty = generator.uniform(size=200)
    a = difficulty + 0.02
    paired = paired_difference(a, difficulty + generator.normal(0, 0.01, 200))
    alone = mean_interval(a)
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)
    assert paired.low < 0.02 < paired.high
    assert paired.p_value < 0.001


def test_mean_interval_of_many_normal_values_is_the_textbook_one():
    values = np.random.default_rng(4).normal(10, 2, 400)
    estimate = mean_interval(values, resamples=20_000)
    half = stats.t.ppf(0.975, 399) * values.std(ddof=1) / 20
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low, estimate.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_same_seed_same_interval_and_other_seed_another():
    values = np.random.default_rng(5).gamma(2, size=30)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_wrong_or_all_right_is_not_certainty(value):
    estimate = proportion_interval([value] * 20)
    assert estimate.value == value
    assert estimate.high - estimate.low == pytest.approx(0.161, abs=1e-3)


def test_equal_rates_and_single_problems_keep_a_width():
    assert proportion_interval([0.5] * 4).high > 0.6
    single = proportion_interval([0.25])
    assert (single.value, single.n) == (0.25, 1)
    assert single.low < 0.05
    assert single.high > 0.7


def test_one_unit_or_none_has_no_interval():
    one = mean_interval([3.0])
    assert (one.value, one.n) == (3.0, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = mean_interval([np.nan])
    assert none.n == 0
    assert math.isnan(none.value)
    assert math.isnan(sign_flip_test([]))


def test_nan_units_are_left_out_and_counted():
    assert mean_interval([1.0, np.nan, 3.0]).n == 2
    paired = paired_difference([1.0, np.nan, 3.0, 5.0], [0.0, 1.0, np.nan, 3.0])
    assert (paired.n, paired.value) == (2, 1.5)


def test_identical_arms_differ_by_zero_within_what_n_allows():
    same = paired_difference(np.ones(30), np.ones(30), bound=1.0)
    assert same.value == 0
    assert same.p_value == 1
    assert same.high == -same.low == pytest.approx(wilson_interval(0, 30).high)


def test_sign_flip_test_is_exact_for_few_differences():
    differences = [3.0, 1.0, 2.0, -0.5]
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=4)
    ]
    expected = np.mean([value >= abs(sum(differences)) - 1e-9 for value in sums])
    assert sign_flip_test(differences) == pytest.approx(expected)
    scipy = stats.permutation_test(
        (np.array(differences), np.zeros(4)), lambda a, b: np.mean(a - b), permutation_type="samples"
    )
    assert sign_flip_test(differences) == pytest.approx(scipy.pvalue)


def test_sampled_sign_flips_approach_the_exact_answer():
    differences = np.random.default_rng(7).normal(0.4, 1, 12)
    assert sign_flip_test(differences, resamples=4000) == pytest.approx(
        sign_flip_test(differences, resamples=5000), abs=0.03
    )


def test_ratio_is_of_sums_and_differences_subtract():
    estimate = ratio_interval([10, 30], [1, 9])
    assert estimate.value == 4
    assert estimate.low == 0  # two units tell little, but never a negative speed
    difference = ratio_difference(([10, 30], [1, 9]), ([10, 20], [2, 8]))
    assert (difference.value, difference.n) == (1, 2)


def test_unequal_lengths_and_rates_outside_the_unit_interval_are_errors():
    with pytest.raises(ValueError, match="equally many"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        proportion_interval([0.5, 1.5])


@pytest.mark.parametrize(
    ("low", "high", "p_value", "shown"),
    [
        (1.6, 18.8, 0.067, False),  # the interval excludes 0, the test does not
        (1.6, 18.8, 0.03, True),
        (-18.8, -1.6, 0.03, True),
        (-1.0, 18.8, 0.03, False),
        (1.6, 18.8, None, True),  # wall times have no test
        (1.6, 18.8, math.nan, True),
        (math.nan, math.nan, math.nan, False),
    ],
)
def test_a_difference_is_shown_where_interval_and_test_agree(low, high, p_value, shown):
    assert shows_difference(Estimate(5.0, low, high, 64, p_value)) is shown


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, math.nan, 0.005]) == pytest.approx([0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("n", "mean", "scale"), [(60, 0.45, 0.9), (400, 0.5, 2.0)])
def test_small_p_values_agree_with_the_t_test(n, mean, scale):
    differences = np.random.default_rng(n).normal(mean, scale, n)
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert expected < 0.01
    assert sign_flip_test(differences) == pytest.approx(expected, rel=0.5, abs=2e-5)


def test_a_small_p_value_agrees_with_all_sign_patterns():
    differences = np.random.default_rng(12).normal(0.9, 0.9, 12)
    signs = np.array(list(itertools.product([1, -1], repeat=12)))
    exact = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert exact < 0.02
    assert sign_flip_test(differences) == pytest.approx(exact, abs=4 * math.sqrt(exact / 100_000))


def test_the_smallest_detectable_difference_is_detected_four_times_in_five():
    generator, n, shown = np.random.default_rng(0), 100, 0
    for _ in range(100):
        noise = generator.normal(0, 1, n)
        effect = paired_difference(noise, np.zeros(n)).detectable
        shown += stats.ttest_1samp(noise + effect, 0).pvalue < 0.05
    assert shown / 100 == pytest.approx(0.8, abs=0.12)  # three standard errors


def test_a_mean_of_means_weighs_sets_not_units():
    a, b = np.random.default_rng(1).normal(1, 1, 400), np.random.default_rng(2).normal(3, 2, 50)
    estimate = mean_of_means([a, [*b, math.nan]])
    assert estimate.value == pytest.approx((a.mean() + b.mean()) / 2)
    assert estimate.n == 450
    half = stats.norm.ppf(0.975) * math.sqrt(a.var(ddof=1) / 400 + b.var(ddof=1) / 50) / 2
    assert (estimate.low, estimate.high) == pytest.approx(
        (estimate.value - half, estimate.value + half), abs=0.1 * half
    )
    difference = mean_of_means([a, b], difference=True)
    assert difference.p_value < 1e-4
    assert difference.detectable == pytest.approx(half / stats.norm.ppf(0.975) * 2.8016, rel=1e-3)
    assert math.isnan(mean_of_means([a, [1.0]]).value)
