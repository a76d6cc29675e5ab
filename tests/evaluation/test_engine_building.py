"""What an engine is built with: no more layers and candidates than the arms read, and what passes through to vLLM."""

import pytest

from led_rl.evaluation.arms import parse_arms
from led_rl.evaluation.engine_building import _vllm_options
from led_rl.evaluation.recipe import EvaluationRecipe


def options(*arms, layers=12, **keys):
    recipe = EvaluationRecipe(["m"], ["gsm8k"], max_tokens=50, **keys)
    return _vllm_options(recipe, layers, False, parse_arms(arms, recipe.arm_defaults), 30)


@pytest.mark.parametrize(
    ("arms", "depth", "latent_layers"),
    [
        (["standard"], 0, None),  # vLLM as it is
        (["standard", "top_k_control"], 1, None),  # LED's sampler without latent layers
        (["standard", "led"], 8, None),
        (["led depth 3", "led depth 5"], 5, None),
        (["led depth 1"], 1, None),
        (["led", "led depth 12"], 12, None),
        (["led latent_layers [11,10,9]"], 4, None),  # the same as depth 4
        (["led latent_layers [10,9]"], 4, (10, 9)),
        (["led depth 2", "led latent_layers [4,2]"], 11, (11, 4, 2)),
    ],
)
def test_the_engine_captures_what_the_arms_read(arms, depth, latent_layers):
    made = options(*arms)
    assert (made["depth"], made["latent_layers"]) == (depth, latent_layers)


def test_decodings_that_change_the_forward_pass_are_admitted():
    made = options("standard", "soft_thinking", "latent_noise")
    assert (made["depth"], made["baselines"]) == (1, ("soft_thinking", "latent_noise"))
    assert made["enforce_eager"] is True
    assert "enforce_eager" not in options("soft_thinking")


def test_candidates_lengths_and_what_passes_through():
    made = options("led", "led k 500", "standard max_tokens 90")
    assert (made["max_k"], made["max_model_len"], made["max_num_seqs"]) == (500, 120, 64)
    assert "dtype" not in made
    assert "tensor_parallel_size" not in made
    made = options("led", dtype="bfloat16", tensor_parallel_size=2, max_num_seqs=8, engine_arguments={"seed": 3})
    assert (made["dtype"], made["tensor_parallel_size"], made["max_num_seqs"], made["seed"]) == ("bfloat16", 2, 8, 3)
    assert made["max_k"] == 128
