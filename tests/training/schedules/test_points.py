"""A number as a function of the step."""

import pytest

from led_rl.training.schedules.points import Points


def values(given, start=8.0, whole=False, steps=range(8)):
    points = Points.read("key", given, start, whole)
    return [points.at(step) for step in steps]


def test_without_points_the_plain_key_s_value_stays():
    assert values(None) == [8.0] * 8


def test_steps_hold_a_value_until_the_next():
    assert values({"steps": {2: 4, 5: 1}}) == [8, 8, 4, 4, 4, 1, 1, 1]


def test_linear_goes_straight_and_then_stays():
    assert values({"linear": {4: 4.0}}) == [8, 7, 6, 5, 4, 4, 4, 4]
    assert values({"linear": {2: 4.0, 4: 5.0}}) == [8, 6, 4, 4.5, 5, 5, 5, 5]


def test_step_0_may_be_named_and_order_does_not_count():
    assert values({"linear": {4: 0.0, 0: 2.0}}) == [2, 1.5, 1, 0.5, 0, 0, 0, 0]


def test_whole_numbers_are_rounded_halves_up():
    assert values({"linear": {4: 2}}, start=4, whole=True) == [4, 4, 3, 3, 2, 2, 2, 2]


def test_json_spells_steps_as_text():
    assert values({"steps": {"3": 1}}, steps=[2, 3]) == [8, 1]


def test_every_value_lies_between_those_of_the_points():
    points = Points.read("key", {"linear": {3: 1, 7: 20}}, 8, whole=True)
    assert {min(points.values), max(points.values)} == {1, 20}
    assert all(1 <= points.at(step) <= 20 for step in range(100))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "key must be {linear: {STEP: VALUE, ...}} or {steps: {STEP: VALUE, ...}}; got 3"),
        ({}, "key must be"),
        ({"cosine": {1: 2}}, "key must be"),
        ({"steps": {}}, "key must be"),
        ({"steps": {1: 2}, "linear": {1: 2}}, "key must be"),
        ({"steps": {-1: 2}}, "a step must be a whole number from 0 on; got -1"),
        ({"steps": {1.5: 2}}, "a step must be a whole number from 0 on; got 1.5"),
        ({"steps": {True: 2}}, "a step must be a whole number"),
        ({"steps": {1: "x"}}, "the value of step 1 must be a number; got 'x'"),
        ({"steps": {1: float("nan")}}, "the value of step 1 must be a number; got nan"),
        ({"steps": {1: 2.5}}, "the value of step 1 must be a whole number; got 2.5"),
    ],
)
def test_refusals_name_the_key_and_what_is_allowed(given, message):
    with pytest.raises(ValueError, match="key") as error:
        Points.read("key", given, 8, whole=True)
    assert message in str(error.value)
