"""The default decoding of an engine's requests: whom it concerns, and what is wrong with it."""

import os
from types import SimpleNamespace

import pytest

from led_rl.decoding import DecodingError
from led_rl.engines.engine_options import EngineOptions
from led_rl.engines.vllm_engine import engine_environment
from led_rl.engines.vllm_plugin import DEFAULT_VARIABLE, register
from led_rl.engines.vllm_requests import read_default, with_default


def test_the_default_goes_into_a_copy_of_what_names_no_decoding():
    from vllm import SamplingParams

    shared = SamplingParams(temperature=0.5, extra_args={"tag": 1})
    assert with_default(shared, {"led": 1}).extra_args == {"tag": 1, "led": 1}
    assert with_default(shared, {"led": 1}).temperature == 0.5
    assert with_default(SamplingParams(), {"led": 1}).extra_args == {"led": 1}
    assert shared.extra_args == {"tag": 1}  # it may stand for other requests


def test_the_default_leaves_the_others_alone():
    from vllm import PoolingParams, SamplingParams

    for keys in ({"led": 0}, {"led_decoding": "standard"}, {"led_k": 3}):
        params = SamplingParams(extra_args=keys)
        assert with_default(params, {"led": 1}) is params
    pooling, plain = PoolingParams(), SamplingParams()
    assert with_default(pooling, {"led": 1}) is pooling
    assert with_default(plain, {}) is plain


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("led=1", ("LED_RL_DEFAULT", "led=1", "Expecting value")),
        ("[1]", ("LED_RL_DEFAULT", "not a JSON object")),
        ('{"temperature": 1}', ("LED_RL_DEFAULT", "'temperature'")),
        ('{"led": 1, "led_q": 2}', ("LED_RL_DEFAULT", "'led_q'", "led_depth")),
        ('{"led": 1, "led_k": 0}', ("LED_RL_DEFAULT", "led_k", ">= 1")),
    ],
)
def test_a_wrong_default_names_the_variable_and_the_key(monkeypatch, text, parts):
    monkeypatch.setenv(DEFAULT_VARIABLE, text)
    config = SimpleNamespace(model_config=SimpleNamespace(architectures=[]))
    with pytest.raises(DecodingError) as error:
        read_default(EngineOptions(), config, None)
    for part in parts:
        assert part in str(error.value)


def test_the_engines_of_training_and_evaluation_have_no_default(monkeypatch):
    monkeypatch.setenv(DEFAULT_VARIABLE, '{"led": 1}')
    with engine_environment(EngineOptions()):
        assert not os.environ[DEFAULT_VARIABLE]
    assert os.environ[DEFAULT_VARIABLE] == '{"led": 1}'


def test_a_front_end_that_would_bypass_the_checks_is_refused(monkeypatch):
    monkeypatch.setenv("LED_RL_DEPTH", "4")
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(RuntimeError, match="VLLM_USE_RUST_FRONTEND"):
        register()
