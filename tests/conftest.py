"""Shared fixtures: tiny random models with a character tokenizer, and one real vLLM engine for the whole session."""

import pytest

from led_rl.engines.environment import set_cpu_environment

set_cpu_environment()

import torch  # noqa: E402

from led_rl.benchmarks.acceptance.models import character_tokenizer, save_tiny_model  # noqa: E402, F401

pytest_plugins = ["recipe_files"]


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(autouse=True)
def seed():
    """Requests without a seed take one from torch's global generator: what a test draws must not hang on its order."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a tiny random model whose final layer is peaked and whose latent layers differ from it."""
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def engine(tiny_model):
    """One vLLM engine with LED, shared by the tests."""
    from led_rl.benchmarks.acceptance.requests import BASELINES
    from led_rl.engines.vllm_engine import VLLMEngine

    # room for every prompt at once: vLLM on CPU crashes on a seeded request whose prefill is cut into chunks
    return VLLMEngine(
        tiny_model,
        depth=8,
        max_model_len=256,
        max_num_seqs=128,
        max_num_batched_tokens=16384,
        support=True,
        baselines=BASELINES,
    )


@pytest.fixture(scope="session")
def oracle(tiny_model):
    """The same model in transformers, float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def led_server(tiny_model, tmp_path_factory):
    """The address of one real server with LED, started as launch/serve_rollouts.sh starts a generation node."""
    from servers import generation_node

    with generation_node(tiny_model, tmp_path_factory.mktemp("server") / "log") as url:
        yield url
