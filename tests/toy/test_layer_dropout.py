import json

import pytest

from led_rl.toy.layer_dropout import dropping_layers
from led_rl.toy.routes import build_tokenizer
from led_rl.toy.warmup import build_model, warm_up


@pytest.fixture(scope="module")
def model():
    return build_model(build_tokenizer(), seed=0)


def kept(model, rate, seed):
    whole = list(model.model.layers)
    with dropping_layers(model, rate, seed):
        return [whole.index(layer) for layer in model.model.layers]


def test_late_layers_are_left_out_more_often(model):
    draws = 2000
    counts = [0] * 8
    for seed in range(draws):
        for layer in kept(model, 0.7, str(seed)):
            counts[layer] += 1
    assert counts[0] == draws
    for layer, count in enumerate(counts):
        assert count / draws == pytest.approx(1 - 0.7 * layer / 7, abs=0.04)


def test_the_model_is_whole_again_afterwards(model):
    before = [*model.model.layers], model.config.num_hidden_layers
    with dropping_layers(model, 0.9, "x"):
        assert len(model.model.layers) == model.config.num_hidden_layers < 8
    assert ([*model.model.layers], model.config.num_hidden_layers) == before
    assert kept(model, 0.0, "y") == list(range(8))


def test_a_warm_up_with_dropout_trains_and_resumes_alike(tmp_path):
    settings = {"seed": 1, "batch_size": 2, "task": "routes", "layer_dropout": 0.5}
    warm_up(tmp_path / "a", 6, **settings)
    warm_up(tmp_path / "b", 6, **settings)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    recorded = json.loads((tmp_path / "a/warmup.json").read_text())["settings"]
    assert (recorded["task"], recorded["layer_dropout"], recorded["shape"]) == ("routes", 0.5, "quickstart")
