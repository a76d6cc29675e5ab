"""The plan of each step: shares of groups, the switch, and values over steps."""

import pytest

from led_rl.decoding import STANDARD, DecodingParams
from led_rl.training.schedules.plan import RolloutPlan, plan_at
from led_rl.training.schedules.points import Points
from led_rl.training.schedules.share import Share, count_of
from led_rl.training.schedules.switch import Switch
from led_rl.training.schedules.values import ScheduledCandidates, ScheduledDepth, ScheduledTemperature

LED = DecodingParams("led", depth=4, k=6)


def plan(generations=8, explored=None):
    return RolloutPlan(LED, 1.0, generations, generations if explored is None else explored)


@pytest.mark.parametrize("generations", [2, 3, 4, 7, 8, 16])
def test_exactly_as_many_rows_of_every_group_explore_spread_evenly(generations):
    for explored in range(generations + 1):
        rows = [plan(generations, explored).explores(row) for row in range(3 * generations)]
        for first in range(0, len(rows), generations):
            assert sum(rows[first : first + generations]) == explored
        for end in range(generations + 1):  # a process that holds a part of the group has its part of them
            assert abs(sum(rows[:end]) - end * explored / generations) < 1


def test_a_plan_is_mixed_if_it_holds_both_kinds_and_standard_if_no_row_explores():
    assert [plan(4, explored).is_mixed for explored in range(5)] == [False, True, True, True, False]
    assert plan(4, 0).rollout_decoding == STANDARD
    assert plan(4, 1).rollout_decoding == LED


@pytest.mark.parametrize(
    ("share", "generations", "count"), [(0.5, 8, 4), (0.5, 5, 3), (0.25, 4, 1), (0.3, 8, 2), (1, 8, 8), (0, 8, 0)]
)
def test_a_share_is_the_nearest_number_of_completions(share, generations, count):
    assert count_of(share, generations) == count
    points = Points.read("led_share_schedule", None, share)
    assert Share(points).plan(plan(generations), 3).explored == count


def test_the_switch_is_on_from_a_step_to_another():
    on = [Switch(2, 5).plan(plan(), step).explored > 0 for step in range(8)]
    assert on == [False, False, True, True, True, False, False, False]
    assert Switch(2, None).plan(plan(), 1000).explored


def test_schedules_change_what_those_before_them_left():
    schedules = [
        ScheduledDepth(Points.read("d", {"steps": {2: 8}}, 4, whole=True)),
        ScheduledCandidates(Points.read("k", {"linear": {4: 2}}, 6, whole=True)),
        ScheduledTemperature(Points.read("t", {"linear": {4: 0.6}}, 1.0)),
        Share(Points.read("s", {"linear": {4: 0.0}}, 1.0)),
        Switch(0, 3),
    ]
    found = [plan_at(schedules, plan(), step) for step in range(4)]
    assert [each.decoding.depth for each in found] == [4, 4, 8, 8]
    assert [each.decoding.k for each in found] == [6, 5, 4, 3]
    assert [each.temperature for each in found] == pytest.approx([1.0, 0.9, 0.8, 0.7])
    assert [each.explored for each in found] == [8, 6, 4, 0]
    assert plan_at(schedules, plan(), 2) == found[2]  # of the step alone
