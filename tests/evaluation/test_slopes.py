"""The slope of accuracy against temperature, against numpy's least squares."""

import json

import numpy as np
import pytest

from led_rl.evaluation.slopes import slopes, write_slopes

TEMPERATURES = {"low": 0.1, "middle": 0.3, "high": 0.6}
RATES = {"low": 0.2, "middle": 0.5, "high": 0.6}


def records(problems=40, samples=4):
    generator = np.random.default_rng(0)
    for arm, rate in RATES.items():
        for i in range(problems):
            right = [bool(flag) for flag in generator.random(samples) < rate]
            yield {
                "kind": "problem", "checkpoint": "base", "benchmark": "sums", "arm": arm, "problem": str(i),
                "rewards": [float(flag) for flag in right], "correct": right, "finished": [True] * samples,
                "thinking_tokens": [1] * samples, "answer_tokens": [1] * samples,
            }  # fmt: skip


def test_slopes_equal_least_squares(tmp_path):
    rows = list(records())
    found = {slope.k: slope for slope in slopes(rows, {"standard": TEMPERATURES, "led": {"led T 1": 1.0}})}
    assert set(found) == {1, 4}
    for k, accuracy in ((1, lambda right: np.mean(right)), (4, any)):
        mean = [np.mean([accuracy(row["correct"]) for row in rows if row["arm"] == arm]) for arm in RATES]
        expected = np.polyfit(list(TEMPERATURES.values()), mean, 1)[0]
        assert found[k].alpha.value == pytest.approx(expected)
        assert found[k].alpha.low < expected < found[k].alpha.high
        assert found[k].alpha.n == 40
    assert found[1].temperatures == [0.1, 0.3, 0.6]
    written = json.loads(write_slopes(tmp_path, list(found.values())).read_text())
    assert [row["k"] for row in written] == [1, 4]
