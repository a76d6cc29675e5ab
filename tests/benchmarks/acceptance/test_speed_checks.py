"""The verdict on throughput: goals apply to large batches of long contexts on a GPU, and allow for noise."""

from pathlib import Path

import pytest

from led_rl.benchmarks.acceptance.kernel_checks import led_kernels
from led_rl.benchmarks.acceptance.speed_checks import ARMS, GPU_GRID, judge_cell, settings_of
from led_rl.benchmarks.cost_model import HARDWARE
from led_rl.benchmarks.engine_benchmark import Cell
from led_rl.benchmarks.engine_results import STANDARD, Block
from led_rl.benchmarks.shapes import BenchmarkModel

MODEL = BenchmarkModel(str(Path()), 36, 2560, 151936, True)


def cell(batch: int, context: int, coin: list[float]) -> Cell:
    """Blocks whose coin arm has these ratios to standard, one a round; the other arms are as fast as standard."""
    blocks = []
    for number, ratio in enumerate(coin):
        order = [STANDARD, *(part for arm in ARMS for part in (arm, STANDARD))]
        for place, arm in enumerate(order):
            step = 0.01 / (ratio if arm == "led_coin" else 1.0)
            statistics = {} if arm == STANDARD else {"rows": 10, "explored": 1, "read": 1, "confidence": 9}
            blocks.append(Block(arm, number, place, batch, 1.0, 1, 20 * step, 20, step, statistics, 0))
    return Cell(batch, context, 0.3, blocks)


@pytest.mark.parametrize(
    ("batch", "context", "coin", "on_device", "status"),
    [
        (128, 4096, [0.9, 0.91], True, "FAIL"),
        (128, 4096, [0.995, 0.996], True, "ok"),
        (128, 4096, [0.97, 1.0], True, "ok"),  # noise: the goal lies within the interval
        (32, 4096, [0.9, 0.91], True, "ok"),
        (128, 1024, [0.9, 0.91], True, "ok"),
        (128, 4096, [0.9, 0.91], False, "ok"),
    ],
)
def test_a_goal_is_missed_where_the_whole_interval_lies_below_it(batch, context, coin, on_device, status):
    settings = settings_of(GPU_GRID, on_device)
    check = judge_cell("size", cell(batch, context, coin), settings, MODEL, HARDWARE["h200"], on_device)
    assert check.status == status
    assert ("missed" in check.text) == (status == "FAIL")
    assert set(check.figures["predicted"]) == set(ARMS)
    assert f"standard {batch * 100:,.0f} [{batch * 100:,.0f}, {batch * 100:,.0f}] tokens/s" in check.text


def test_the_draw_s_kernels_are_known_by_name():
    assert {"scan_tiles", "draw_final", "draw_latent", "write_policy", "_read_vocabulary"} <= set(led_kernels())
