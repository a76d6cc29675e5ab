"""Arms from text and mappings: names, options, sweeps, and which is compared with which."""

import pytest

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.evaluation.arms import default_comparisons, parse_arms, sweeps
from led_rl.evaluation.rows import EvaluationError

DEFAULTS = {"temperature": 0.6, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 100, "depth": 4, "k": 6}


def test_text_and_mappings_say_the_same():
    text = parse_arms(["standard T .6 top-p .95 top-k 20", "led depth 3", "min_p .1"], DEFAULTS)
    assert list(text) == ["standard T 0.6 top_p 0.95 top_k 20", "led depth 3", "standard min_p 0.1"]
    assert text["led depth 3"].decoding == DecodingParams("led", depth=3, k=6)
    assert text["standard T 0.6 top_p 0.95 top_k 20"].sampling == Sampling(0.6, 0.95, 20, 0.0, 100)
    assert text["standard min_p 0.1"].sampling == Sampling(0.6, min_p=0.1, max_tokens=100)
    mappings = [
        {"decoding": "standard", "temperature": 0.6, "top_p": 0.95, "top_k": 20},
        {"decoding": "led", "depth": 3},
        {"min_p": 0.1},
    ]
    assert parse_arms(mappings, DEFAULTS) == text


def test_plain_decodings_take_the_recipe_s_settings():
    arms = parse_arms(["standard", "top_k_control", "led", "led_reference"], DEFAULTS)
    assert list(arms) == ["standard", "top_k_control", "led", "led_reference"]
    assert [(arm.decoding.depth, arm.decoding.k) for arm in arms.values()] == [(8, 8), (8, 6), (4, 6), (4, 6)]
    assert {arm.sampling for arm in arms.values()} == {Sampling(0.6, max_tokens=100)}


def test_a_list_of_temperatures_is_a_sweep():
    arms = parse_arms(
        [
            {"decoding": "standard", "temperature": [0.2, 1]},
            {"name": "x", "decoding": "led", "temperature": [0.2, 1]},
            "led T 0.3 k 2",
        ],
        DEFAULTS,
    )
    assert list(arms) == ["standard T 0.2", "standard T 1", "x T 0.2", "x T 1", "led T 0.3 k 2"]
    assert sweeps(arms) == {
        "standard": {"standard T 0.2": 0.2, "standard T 1": 1.0},
        "led": {"x T 0.2": 0.2, "x T 1": 1.0},
    }


def test_arms_are_compared_with_the_baselines_of_their_temperature():
    arms = parse_arms(["standard", "standard top_p .9", "top_k_control", "standard T 1", "led", "led T 1"], DEFAULTS)
    assert default_comparisons(arms) == [
        ("led", "standard"),
        ("led", "standard top_p 0.9"),
        ("led", "top_k_control"),
        ("led T 1", "standard T 1"),
    ]
    assert default_comparisons(parse_arms(["standard", "min_p .1"], DEFAULTS)) == [("standard min_p 0.1", "standard")]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("beam", "arm 'beam': led_decoding must be one of standard, led"),
        ("led size 3", "unknown key 'size'; allowed: name, decoding, temperature, top_p"),
        ("led T 3", "arm 'led T 3': temperature: expected a number from 0 to 2, got 3"),
        ("led T hot", "expected a number from 0 to 2, got 'hot'"),
        ("standard top_p 0", "expected a number above 0 and at most 1, got 0"),
        ("standard top_k 1.5", "expected an integer >= 1, or 0 for no limit, got 1.5"),
        ("standard max_tokens 0", "expected an integer >= 1, got 0"),
        ("led depth 0", "led_depth must be an integer >= 1"),
        ("led aggregation median", "led_aggregation must be one of"),
        ("standard k 8", "standard decoding has no k"),
        ("led T", "'T' has no value"),
        ("", "an arm is text"),
        (3, "an arm is text"),
    ],
)
def test_mistakes_name_the_arm(spec, message):
    with pytest.raises(EvaluationError, match=message):
        parse_arms([spec], DEFAULTS)


def test_two_arms_of_one_name_and_no_arm():
    with pytest.raises(EvaluationError, match="two arms are called 'led'"):
        parse_arms(["led", "led"], DEFAULTS)
    with pytest.raises(EvaluationError, match="at least one arm"):
        parse_arms([], DEFAULTS)
