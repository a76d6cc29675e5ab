"""When the watchdog speaks, and what it says. Two real processes are in test_two_processes.py."""

import logging
import threading
import time
from types import SimpleNamespace

import pytest

from led_rl.training.observation import watchdog
from led_rl.training.observation.watchdog import Watchdog, describe

ALONE = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True)


def step(dog, number, seconds):
    dog.on_step_begin(None, SimpleNamespace(global_step=number - 1), None)
    time.sleep(seconds)
    dog.on_step_end(None, None, None)


def clock(stage="reward"):
    return SimpleNamespace(stage=(stage, time.perf_counter()))


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.name == watchdog.__name__]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watchdog, "POLL", 0.02)


def test_it_speaks_of_a_step_far_longer_than_the_median_and_again_when_twice_as_long(caplog):
    with Watchdog(clock(), ALONE, factor=5.0, floor=0.0) as _, caplog.at_level(logging.WARNING):
        pass
    dog = Watchdog(clock(), ALONE, factor=5.0, floor=0.0)
    with dog:
        for number in (1, 2, 3):
            step(dog, number, 0.3)
        usual = warnings(caplog)
        step(dog, 4, 4.0)  # 13 times the median
    assert [line for line in usual if "step 1 " not in line] == []  # nothing is known of the first step's length
    lines = [line for line in warnings(caplog) if line.startswith("step 4 has taken")]
    assert 1 <= len(lines) <= 3  # after 1.5 s and after 3 s, as far as the machine lets the thread run
    assert "(the median is 0." in lines[0]
    assert "rank 0: reward for" in lines[0]


def test_the_floor_and_0_keep_it_quiet(caplog):
    for factor, floor in ((5.0, 60.0), (0.0, 0.0)):
        dog = Watchdog(clock(), ALONE, factor=factor, floor=floor)
        before = threading.active_count()
        with dog:
            assert threading.active_count() == before + bool(factor)
            step(dog, 1, 0.05)
            step(dog, 2, 0.8)
    assert warnings(caplog) == []


def test_the_line_names_first_whom_the_others_wait_for():
    stages = {
        0: {"stage": "waiting for the others' rewards", "seconds": 50.2, "silent": 0.1},
        1: {"stage": "reward", "seconds": 55.0, "silent": 20.0},
        2: {"stage": "waiting for the others' rewards", "seconds": 51.0, "silent": 0.2},
    }
    assert describe(7, 62.0, 5.94, stages) == (
        "step 7 has taken 62 s so far (the median is 5.9 s): rank 1: reward for 55 s (no sign of life from 1); "
        "ranks 0, 2: waiting for the others' rewards for 51 s"
    )
    assert "(the first step)" in describe(1, 600.0, None, stages)
