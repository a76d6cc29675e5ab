"""Where the wall time of a step went, by process."""

import pytest

from led_rl.training.step_clock import PARTS, time_metrics


def test_the_parts_of_every_process_make_up_its_step():
    #          rollout, reward, weight sync, whole step, stop
    processes = [(2.0, 1.0, 0.5, 10.0, 0.0), (5.0, 0.5, 0.25, 10.5, 0.0), (1.0, 4.0, 0.5, 10.0, 1.0)]
    metrics = time_metrics(processes, tokens=300.0)
    for rank, (rollout, reward, sync, step, _) in enumerate(processes):
        found = {part: metrics[f"time_by_rank/{part}_{rank}"] for part in PARTS}
        assert (found["rollout"], found["reward"], found["weight_sync"]) == (rollout, reward, sync)
        assert found["idle"] == pytest.approx((5.25 - rollout - sync) + (4.0 - reward))
        assert sum(found.values()) == pytest.approx(step)
    for part in PARTS:
        values = [metrics[f"time_by_rank/{part}_{rank}"] for rank in range(3)]
        assert metrics[f"time/{part}"] == max(values)
        assert metrics[f"time/{part}_mean"] == pytest.approx(sum(values) / 3)
    assert metrics["time/step"] == 10.5
    assert metrics["rollout/tokens_per_second"] == 60
    assert metrics["rollout/tokens_per_second_of_step"] == pytest.approx(300 / 10.5)


def test_one_process_is_never_idle_and_has_no_metrics_by_rank():
    metrics = time_metrics([(2.0, 1.0, 0.5, 10.0)], tokens=300.0)
    assert metrics["time/idle"] == 0
    assert metrics["time/training"] == 6.5
    assert not [name for name in metrics if "rank" in name or "mean" in name]


def test_without_an_engine_there_is_no_speed_of_rollouts():
    assert not [name for name in time_metrics([(0.0, 1.0, 0.0, 2.0)], tokens=9.0) if "tokens" in name]
