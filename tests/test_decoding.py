"""Decoding parameters survive the trip through a request, and every wrong one is refused by name."""

import json
import os
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_rl.decoding import AGGREGATIONS, DRAWS, OWN_KEYS, DecodingError, DecodingParams
from led_rl.methods.properties import DECODINGS, PROPERTIES
from led_rl.sampler.capture_options import EngineOptions

KEYS = (
    "led_decoding",
    "led_depth",
    "led_k",
    "led_latent_layers",
    "led_latent_norm",
    "led_exploit",
    "led_draw",
    "led_aggregation",
    "led_think_only",
    "led_think_start",
    "led_start_marker",
    "led_end_marker",
    *(f"led_{key}" for key in OWN_KEYS),
)
markers = st.text(min_size=1, max_size=9) | st.lists(st.integers(0, 10**6), min_size=1, max_size=9).map(tuple)
layers = st.lists(st.integers(0, 30), min_size=1, max_size=9, unique=True).map(tuple)
OWN = {
    "dola_layers": st.sampled_from(["low", "high"]) | layers,
    "dola_relative_top": st.floats(0, 1) | st.integers(0, 1),
    "near_final_layers": st.integers(1, 99),
    "soft_top_k": st.integers(1, 99),
    "soft_cold_stop_entropy": st.floats(0, 10),
    "soft_cold_stop_length": st.integers(0, 999),
    "gumbel_temperature": st.floats(0.01, 10),
    "noise_layers": st.none() | layers,
    "noise_scale": st.floats(0, 10),
}


def with_own_keys(common):
    """A strategy for decoding parameters: `common` ones, and those that a decoding has for itself."""

    def of(decoding):
        own = {key: OWN[key] for key in PROPERTIES[decoding].own_keys}
        return st.builds(DecodingParams, decoding=st.just(decoding), **common, **own)

    return st.sampled_from([name for name in DECODINGS if name != "standard"]).flatmap(of)


parameters = with_own_keys(
    {
        "depth": st.integers(1, 99),
        "k": st.integers(1, 10**6),
        "latent_layers": st.none() | st.lists(st.integers(0, 99), unique=True).map(tuple),
        "latent_norm": st.booleans(),
        "exploit": st.booleans(),
        "draw": st.sampled_from(DRAWS),
        "aggregation": st.sampled_from(AGGREGATIONS),
        "think_only": st.booleans(),
        "think_start": st.sampled_from(["prompt", "marker"]),
        "start_marker": markers,
        "end_marker": markers.map(lambda marker: f"/{marker}/" if isinstance(marker, str) else (*marker, 1)),
    }
)


@settings(deadline=None)
@given(parameters)
def test_what_travels_with_a_request_comes_back_the_same(params):
    extra_args = params.to_extra_args()
    assert set(extra_args) <= set(KEYS)
    assert DecodingParams.from_extra_args(extra_args) == params
    over_http = json.loads(json.dumps(extra_args))
    assert DecodingParams.from_extra_args(over_http) == params
    assert all(isinstance(value, bool | int | float | str | list) for value in extra_args.values())  # flat: vllm_xargs


@settings(deadline=None)
@given(parameters)
def test_keys_of_others_are_left_alone(params):
    mixed = {"tag": 7, "ledger": "x", **params.to_extra_args(), "": None}
    assert DecodingParams.from_extra_args(mixed) == params


def test_standard_decoding_leaves_no_trace_in_the_request():
    assert DecodingParams("standard", depth=3).to_extra_args() == {}
    for nothing in (None, {}, {"led": False}, {"led": 0}, {"other": 1}):
        assert DecodingParams.from_extra_args(nothing) == DecodingParams()
        assert DecodingParams.from_extra_args(nothing).is_standard


def test_the_defaults_are_the_paper_s():
    params = DecodingParams.from_extra_args({"led": True})
    assert params == DecodingParams(
        decoding="led",
        depth=8,
        k=8,
        latent_layers=None,
        latent_norm=False,
        exploit=True,
        draw="coin",
        aggregation="cumulative_sum",
        think_only=True,
        think_start="prompt",
        start_marker="<think>",
        end_marker="</think>",
    )
    assert DecodingParams("led").to_extra_args() == {"led_decoding": "led", "led_depth": 8}


def test_led_is_short_for_its_decoding_and_flags_may_be_numbers():
    assert DecodingParams.from_extra_args({"led": 1, "led_exploit": 0}) == DecodingParams("led", exploit=False)
    assert DecodingParams.from_extra_args({"led_decoding": "top_k_control", "led_k": 5}).k == 5
    assert DecodingParams.from_extra_args({"led": 1, "led_latent_layers": [3, 1]}).latent_layers == (3, 1)
    assert DecodingParams.from_extra_args({"led": 1, "led_end_marker": [3, 1]}).end_marker == (3, 1)


@pytest.mark.parametrize(
    ("extra_args", "named", "given", "allowed"),
    [
        ({"led": 1, "led_depht": 4}, "led_depht", "led_depht", "led_depth"),
        ({"led": 1, "led_": 4}, "led_", "led_", "led_think_start"),
        ({"led": "yes"}, "led", "yes", "true or false"),
        ({"led_decoding": "doll"}, "led_decoding", "doll", "standard, led, top_k_control"),
        ({"led_decoding": ["led"]}, "led_decoding", "['led']", "standard, led, top_k_control"),
        ({"led": 1, "led_think_start": "now"}, "led_think_start", "now", "prompt, marker"),
        ({"led": 1, "led_draw": "dice"}, "led_draw", "dice", "coin, marginal"),
        ({"led": 1, "led_aggregation": 0}, "led_aggregation", "0", "cumulative_sum, mean_all, max_entropy_layer, pro"),
        ({"led": 1, "led_start_marker": ""}, "led_start_marker", "''", "1 to 64"),
        ({"led": 1, "led_end_marker": []}, "led_end_marker", "[]", "1 to 64"),
        ({"led": 1, "led_end_marker": [7] * 65}, "led_end_marker", "7, 7", "1 to 64"),
        ({"led": 1, "led_end_marker": 4}, "led_end_marker", "4", "list of integers"),
        ({"led": 1, "led_end_marker": ["</think>"]}, "led_end_marker", "'</think>'", "integer >= 0"),
        ({"led": 1, "led_depth": 0}, "led_depth", "0", "integer >= 1"),
        ({"led": 1, "led_depth": 2.0}, "led_depth", "2.0", "integer >= 1"),
        ({"led": 1, "led_depth": True}, "led_depth", "True", "integer >= 1"),
        ({"led": 1, "led_depth": None}, "led_depth", "None", "integer >= 1"),
        ({"led": 1, "led_k": -8}, "led_k", "-8", "integer >= 1"),
        ({"led": 1, "led_k": "8"}, "led_k", "'8'", "integer >= 1"),
        ({"led": 1, "led_latent_norm": "true"}, "led_latent_norm", "'true'", "true or false"),
        ({"led": 1, "led_exploit": 2}, "led_exploit", "2", "true or false"),
        ({"led": 1, "led_think_only": None}, "led_think_only", "None", "true or false"),
        ({"led": 1, "led_latent_layers": 3}, "led_latent_layers", "3", "list of integers"),
        ({"led": 1, "led_latent_layers": "3,2"}, "led_latent_layers", "'3,2'", "list of integers"),
        ({"led": 1, "led_latent_layers": [3, -1]}, "led_latent_layers", "-1", "integer >= 0"),
        ({"led": 1, "led_latent_layers": [3, 3]}, "led_latent_layers", "[3, 3]", "not repeat"),
        ({"led_k": 4}, "led_k", "led_k", "led: true or led_decoding"),
        ({"led": 1, "led_k": 2**63}, "led_k", str(2**63), "<= 2147483647"),
        ({"led": 1, "led_end_marker": [2**63]}, "led_end_marker", str(2**63), "<= 2147483647"),
        ({"led": 1, "led_latent_layers": [2**64]}, "led_latent_layers", str(2**64), "<= 2147483647"),
        ({"led": 0, "led_decoding": "led"}, "led_decoding", "'led'", "leave one of them out"),
        ({"led_decoding": "standard", "led": 1}, "led_decoding", "'standard'", "leave one of them out"),
        ({"led": 1, "led_end_marker": "<think>"}, "led_end_marker", "'<think>'", "must differ"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_was_given_and_what_is_allowed(extra_args, named, given, allowed):
    with pytest.raises(DecodingError) as error:
        DecodingParams.from_extra_args(extra_args)
    for part in (named, given, allowed):
        assert part in str(error.value)


def test_parameters_cannot_change_after_they_were_checked():
    with pytest.raises(AttributeError):
        DecodingParams().depth = 0


@pytest.mark.parametrize(
    ("params", "layers"),
    [
        (DecodingParams("led", depth=4), (11, 10, 9)),  # the paper's: from the penultimate state down
        (DecodingParams("led", depth=1), ()),
        (DecodingParams("led", depth=12), tuple(range(11, 0, -1))),
        (DecodingParams("led", latent_layers=[10, 9, 8]), (10, 9, 8)),  # the reference code's, which skips 11
        (DecodingParams("led", depth=99, latent_layers=[2, 7, 0]), (2, 7, 0)),  # in the order given
        (DecodingParams("standard", depth=99), ()),
        (DecodingParams("top_k_control", depth=99), ()),
    ],
)
def test_latent_layers_of_a_model_of_twelve(params, layers):
    assert params.layers(12) == layers


@pytest.mark.parametrize(
    ("params", "parts"),
    [
        (DecodingParams("led", depth=13), ("led_depth=13", "12", "1 to 12")),
        (DecodingParams("led", latent_layers=[11, 12, 20]), ("led_latent_layers", "[12, 20]", "0 to 11")),
    ],
)
def test_layers_that_the_model_lacks_are_refused(params, parts):
    with pytest.raises(DecodingError) as error:
        params.layers(12)
    assert all(part in str(error.value) for part in parts)


@settings(deadline=None)
@given(parameters | st.just(DecodingParams()), st.integers(1, 40), st.booleans())
def test_an_engine_built_for_a_decoding_captures_just_what_its_requests_read(params, num_layers, final_entropy):
    """The options travel to the engine by environment."""
    if params.reads_latents:  # a model that has the layers
        named = params.latent_layers
        if params.decoding == "dola" and not isinstance(params.dola_layers, str):
            named = params.dola_layers
        least = params.depth if named is None else max(named, default=0) + 1
        num_layers = max(num_layers, least)
    with mock.patch.dict(os.environ, EngineOptions.for_decoding(params, final_entropy).to_environment()):
        options = EngineOptions.from_environment()
    assert bool(options.depth) == (not params.is_standard)
    if options.depth:
        assert options.final_entropy == final_entropy
        assert sorted(options.captured_layers(num_layers)) == sorted(params.layers(num_layers))
