"""Shared fixtures: tiny random models with a character tokenizer, and one real vLLM engine for the whole session."""

import string

import pytest

from led_rl.engines.environment import set_cpu_environment

set_cpu_environment()

import torch  # noqa: E402

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


def character_tokenizer(think_tokens: bool = True):
    """A fast tokenizer with one token per printable character, chat markers and think markers."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    think = ["<think>", "</think>"] if think_tokens else []
    vocabulary = {token: i for i, token in enumerate([*special, *think, *string.printable])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    core.add_special_tokens(special)
    core.add_tokens([AddedToken(token, special=False, normalized=False) for token in think])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + ("<think>" if think_tokens else "") + "{% endif %}"
    )
    return tokenizer


def save_tiny_model(path, layers: int = 12, think_tokens: bool = True, seed: int = 0, **changes):
    """A small random Qwen3, its weights scaled up: as initialised, all of its layers' distributions are nearly flat."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = character_tokenizer(think_tokens)
    tokenizer.save_pretrained(path)
    torch.manual_seed(seed)
    config = Qwen3Config(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }
        | changes
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)
        model.get_input_embeddings().weight.mul_(4.0)
        model.get_output_embeddings().weight.mul_(4.0)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a tiny random model whose final layer is peaked and whose latent layers differ from it."""
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def engine(tiny_model):
    """One vLLM engine with LED, shared by the tests."""
    from led_rl.engines.vllm_engine import VLLMEngine

    # room for every prompt at once: vLLM on CPU crashes on a seeded request whose prefill is cut into chunks
    return VLLMEngine(
        tiny_model, depth=8, max_model_len=256, max_num_seqs=128, max_num_batched_tokens=16384, support=True
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
