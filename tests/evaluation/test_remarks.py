"""What is said beside the figures: truncation, verdicts, the smallest detectable difference, the mean of benchmarks."""

import numpy as np
import pytest

from led_rl.evaluation.estimates import paired_difference
from led_rl.evaluation.remarks import difference_table, remarks
from led_rl.evaluation.significance import holm
from led_rl.evaluation.slopes import slopes
from led_rl.evaluation.summary import MEAN, figures_tested, summarise


def problem_rows(benchmark, arm, rate, problems=60, finished=True, seed=0):
    generator = np.random.default_rng([seed, len(arm)])
    for i in range(problems):
        right = [bool(flag) for flag in generator.random(4) < rate]
        yield {
            "kind": "problem", "checkpoint": "base", "benchmark": benchmark, "arm": arm, "problem": str(i),
            "rewards": [float(flag) for flag in right], "correct": right, "finished": [finished] * 3 + [True],
            "extracted": ["1" if flag else "2" for flag in right],
            "thinking_tokens": [int(n) for n in generator.integers(10, 20, 4)], "answer_tokens": [1] * 4,
        }  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    records = [
        *problem_rows("sums", "standard", 0.2),
        *problem_rows("sums", "led", 0.7),
        *problem_rows("products", "standard", 0.5, 30, finished=False),
        *problem_rows("products", "led", 0.5, 30),
    ]
    return summarise(records, order=["led", "standard"])


def test_rows_come_by_benchmark_in_the_order_asked_for(rows):
    order = [(row.benchmark, row.arm) for row in rows]
    arms = ["led", "standard", "led − standard"]
    assert order == [(benchmark, arm) for benchmark in ("sums", "products", MEAN) for arm in arms]


def test_the_mean_weighs_benchmarks_alike(rows):
    by_key = {(row.benchmark, row.arm): row for row in rows}
    for arm in ("led", "standard", "led − standard"):
        for name in ("pass@1", "pass@4", "majority@4", "total_tokens", "truncated"):
            parts = [by_key[benchmark, arm].metrics[name].value for benchmark in ("sums", "products")]
            mean = by_key[MEAN, arm].metrics[name]
            assert mean.value == pytest.approx(np.mean(parts))
            assert mean.n == 90
            assert mean.low <= mean.value <= mean.high
    assert by_key[MEAN, "led"].problems == 90


def test_every_test_that_is_shown_is_corrected_together(rows):
    differences = [row for row in rows if row.is_difference]
    found = [(row, name) for row in differences for name in figures_tested(row)]
    assert {name for _, name in found} >= {"pass@1", "pass@4", "majority@4", "total_tokens", "truncated"}
    assert "pass@2" not in {name for _, name in found}
    assert "reward" not in {name for _, name in found}  # here the same as pass@1
    assert [row.metrics[name].p_holm for row, name in found] == holm([row.metrics[name].p_value for row, name in found])


def test_verdicts_and_detectable_differences(rows):
    table = difference_table(rows)
    lines = [line for line in table.splitlines() if "pass@1" in line]
    assert lines[0].rstrip().endswith("higher")
    assert lines[1].rstrip().endswith("no difference shown")
    a, b = (
        [np.mean(r["correct"]) for r in problem_rows("sums", arm, rate)]
        for arm, rate in (("led", 0.7), ("standard", 0.2))
    )
    expected = paired_difference(a, b, bound=1.0).detectable
    assert expected == pytest.approx(2.8016 * np.std(np.subtract(a, b), ddof=1) / np.sqrt(60), rel=1e-3)
    assert f" {100 * expected:.1f} " in lines[0]


def test_completions_that_were_cut_off_explain_the_accuracy(rows):
    said = remarks(rows, max_tokens=30)
    assert said[0].startswith("base on products: completions were cut off at max_tokens 30 (standard 75 %)")
    cut = [{**row, "finished": [False] * 4} for row in problem_rows("sums", "standard", 0.0)]
    assert remarks(summarise(cut))[0].startswith(
        "base on sums: every completion was cut off (standard) and counts as wrong"
    )


def test_slopes_are_said():
    records = [*problem_rows("sums", "cold", 0.2), *problem_rows("sums", "hottest", 0.7)]
    found = slopes(records, {"standard": {"cold": 0.5, "hottest": 1.0}})
    said = remarks(summarise(records), found)
    assert said[-2].startswith("base on sums, standard: pass@1 changes by +")
    assert "per unit of temperature (T 0.5, 1; 60 problems)" in said[-1]
