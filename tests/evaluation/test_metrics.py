"""Figures of each problem against counts by hand and against every choice of k samples."""

from itertools import combinations

import numpy as np
import pytest

from led_rl.evaluation.metrics import majority_at_k, per_problem, shown_ks


def by_hand(extracted, correct, k):
    """The mean over all choices of k samples of the share of right answers among the most frequent ones."""
    shares = []
    for chosen in combinations(range(len(extracted)), k):
        votes = [extracted[i] for i in chosen if extracted[i] is not None]
        most = max((votes.count(answer) for answer in votes), default=0)
        winners = {answer for answer in votes if votes.count(answer) == most}
        right = {answer for answer in winners if correct[extracted.index(answer)]}
        shares.append(len(right) / len(winners) if winners else 0.0)
    return float(np.mean(shares))


SAMPLES = ["4", "4", "5", "4", None, "5", "6", "5"]
RIGHT = [answer == "5" for answer in SAMPLES]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 7, 8])
def test_majority_at_k_is_the_mean_over_all_choices(k):
    expected = by_hand(SAMPLES, RIGHT, k)
    tolerance = 1e-12 if k == 8 else 0.15  # 4 standard errors of 160 draws
    assert majority_at_k(SAMPLES, RIGHT, k) == pytest.approx(expected, abs=tolerance)


def test_majority_of_all_samples_is_exact():
    assert majority_at_k(SAMPLES, RIGHT, 8) == 0.5  # three votes each for 4 and 5
    assert majority_at_k([None, None], [False, False], 2) == 0.0
    assert majority_at_k(["1", "1", "2"], [True, True, False], 3) == 1.0
    assert np.isnan(majority_at_k(["1", None], [True, None], 2))  # one sample could not be judged


ROWS = [
    {
        "rewards": [1.0, 0.0, 1.0, 0.0],
        "correct": [True, False, True, False],
        "extracted": ["2", "3", "2", None],
        "thinking_tokens": [10, 20, 30, 40],
        "answer_tokens": [1, 2, 3, 0],
        "finished": [True, True, True, False],
    },
    {
        "rewards": [0.0, 0.0, 0.0, None],
        "correct": [False, False, False, None],
        "extracted": ["7", "8", "9", None],
        "thinking_tokens": [5, 5, 5, 5],
        "answer_tokens": [1, 1, 1, 1],
        "finished": [True, False, False, False],
    },
]


def test_figures_by_hand():
    figures = per_problem(ROWS)
    expected = {
        "pass@1": [0.5, 0.0],
        "pass@2": [1 - 1 / 6, 0.0],  # one of six pairs has no right sample
        "pass@3": [1.0, 0.0],
        "pass@4": [1.0, np.nan],
        "majority@4": [1.0, np.nan],
        "reward": [0.5, 0.0],
        "distinct_answers": [2, 3],
        "truncated": [0.25, 0.75],
        "thinking_tokens": [25, 5],
        "answer_tokens": [1.5, 1],
        "total_tokens": [26.5, 6],
        "total_tokens_finished": [22, 6],
        "thinking_tokens_correct": [20, np.nan],
        "total_tokens_correct": [22, np.nan],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(figures[name], values, err_msg=name)


def test_rows_of_older_folders_have_no_answers():
    figures = per_problem([{key: value for key, value in row.items() if key != "extracted"} for row in ROWS])
    assert "distinct_answers" not in figures
    assert not any(name.startswith("majority") for name in figures)


def test_the_k_that_are_shown():
    assert shown_ks(range(1, 17)) == [1, 2, 4, 8, 16]
    assert shown_ks(range(1, 13)) == [1, 2, 4, 8, 12]
    assert shown_ks([]) == []
