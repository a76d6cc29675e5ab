"""The comparison with transformers tells right from wrong, however lenient its limits are."""

import pytest

from led_rl.benchmarks.acceptance.models import save_tiny_model
from led_rl.benchmarks.acceptance.requests import mixed_requests, seeded_requests
from led_rl.engines.agreement import compare, generate_traced
from led_rl.engines.self_check import COARSE, ROUNDING, TF32, judge
from led_rl.engines.transformers_engine import TransformersEngine


@pytest.fixture(scope="module")
def run(engine):
    requests = mixed_requests(52)
    return *requests, *generate_traced(engine.llm, *requests)


def test_the_engine_agrees_with_its_own_model(run, tiny_model):
    check = judge(compare(TransformersEngine(tiny_model), *run), ROUNDING)
    assert check.status == "ok", check.text
    assert check.figures["tables"] > 100
    assert check.figures["logprobs"] > 500


@pytest.mark.parametrize("tolerance", [TF32, COARSE], ids=["tf32", "coarse"])
def test_another_model_is_found_out(run, tolerance, tmp_path):
    other = TransformersEngine(str(save_tiny_model(tmp_path, seed=1)))
    assert judge(compare(other, *run, tolerance=tolerance.table), tolerance).status == "FAIL"


@pytest.mark.parametrize("tolerance", [TF32, COARSE], ids=["tf32", "coarse"])
def test_latent_layers_that_are_off_by_one_are_found_out(engine, tiny_model, tolerance):
    prompts, params = seeded_requests(8)
    for param in params:
        if param.extra_args:
            param.extra_args = {"led": 1, "led_draw": "marginal", "led_depth": 5, "tag": param.extra_args["tag"]}
    outputs, traced = generate_traced(engine.llm, prompts, params)
    reference = TransformersEngine(tiny_model)
    assert judge(compare(reference, prompts, params, outputs, traced), ROUNDING).status == "ok"
    for param in params:
        if param.extra_args:
            param.extra_args = param.extra_args | {"led_latent_layers": [10, 9, 8, 7]}  # drawn from 11, 10, 9, 8
    found = compare(reference, prompts, params, outputs, traced, tolerance=tolerance.table)
    assert judge(found, tolerance).status == "FAIL"
