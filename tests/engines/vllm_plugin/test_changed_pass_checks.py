"""What an engine refuses of Soft Thinking and latent noise, with one line that says why and what is allowed."""

import pytest
from test_refusals import config

from led_rl.decoding import DecodingError, DecodingParams
from led_rl.engines.vllm_plugin.changed_pass_checks import check_changed_passes, check_cold_stop
from led_rl.engines.vllm_plugin.submission import check_engine
from led_rl.sampler.capture_options import EngineOptions
from led_rl.thinking import ThinkMarkers

KINDS = ("soft_thinking", "soft_thinking_gumbel", "latent_noise")


@pytest.fixture(scope="module")
def eager(tiny_model):
    return config(tiny_model, enforce_eager=True)


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_admits_what_it_was_started_for(eager, kind):
    check_engine(DecodingParams(kind), EngineOptions(1, baselines=(kind,)), eager)
    others = tuple(other for other in KINDS if other != kind)
    with pytest.raises(DecodingError, match=f"start it with {kind} in LED_RL_BASELINES"):
        check_engine(DecodingParams(kind), EngineOptions(8, baselines=others), eager)


def test_noise_needs_an_engine_without_cuda_graphs_and_soft_thinking_does_not(tiny_model):
    graphs = config(tiny_model, enforce_eager=False)
    check_changed_passes(DecodingParams("soft_thinking"), graphs)
    with pytest.raises(DecodingError, match="start the engine with enforce_eager"):
        check_changed_passes(DecodingParams("latent_noise"), graphs)


@pytest.mark.parametrize(
    ("decoding", "reason"),
    [
        (DecodingParams("soft_thinking", soft_top_k=33), "led_soft_top_k=33 is more than the 32 tokens"),
        (DecodingParams("latent_noise", noise_layers=(3, 12)), r"names \[12\], but the model's layers are 0 to 11"),
        (DecodingParams("soft_thinking", think_only=False), "set led_soft_cold_stop_length: 0"),
    ],
)
def test_values_that_cannot_be_served_are_refused(eager, decoding, reason):
    with pytest.raises(DecodingError, match=reason):
        check_changed_passes(decoding, eager)


def test_a_cold_stop_needs_one_token_that_ends_thinking():
    several = ThinkMarkers(((3,),), ((4, 5),))
    with pytest.raises(DecodingError, match="forces one token"):
        check_cold_stop(DecodingParams("soft_thinking"), several)
    check_cold_stop(DecodingParams("soft_thinking", soft_cold_stop_length=0), several)
    check_cold_stop(DecodingParams("led"), several)
    check_cold_stop(DecodingParams("soft_thinking_gumbel"), ThinkMarkers(((3,),), ((4,),)))


def test_a_kv_connector_is_refused(eager):
    from copy import copy

    connected = copy(eager)
    connected.kv_transfer_config = object()
    with pytest.raises(DecodingError, match="kv_transfer_config"):
        check_changed_passes(DecodingParams("soft_thinking"), connected)
