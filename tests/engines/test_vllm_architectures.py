"""Each supported architecture: the engine's tables of all depths are those of transformers, on a tiny random model."""

import gc
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from agreement import CLOSE, THINK, check_agreement, generate_traced, random_text, sampling_params
from conftest import character_tokenizer

from led_rl.engines import vllm_models
from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.engines.vllm_engine import VLLMEngine
from led_rl.engines.vllm_models import ARCHITECTURES, LatentStatesMixin

LAYERS = 6
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": None,
}
UNTIED = {"tie_word_embeddings": False}
GEMMA = {"query_pre_attn_scalar": 32, "sliding_window": 16}  # shorter than most prompts
CAPS = {"final_logit_softcapping": 8.0, "attn_logit_softcapping": 3.0}  # so low that they bite
# By architecture: the configuration class of transformers, what differs from SIZES, and by how much weights are scaled.
MODELS = {
    "Gemma2ForCausalLM": ("Gemma2Config", GEMMA | CAPS, 1.5),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", GEMMA, 1.5),
    "GemmaForCausalLM": ("GemmaConfig", {}, 1.5),
    "LlamaForCausalLM": ("LlamaConfig", UNTIED, 3.0),
    "MiMoForCausalLM": ("Qwen2Config", UNTIED, 3.0),  # MiMo is Qwen2 with layers for speculation, which LED leaves out
    "MistralForCausalLM": ("MistralConfig", UNTIED | {"sliding_window": None}, 3.0),
    "Qwen2ForCausalLM": ("Qwen2Config", {"tie_word_embeddings": True}, 3.0),
    "Qwen3ForCausalLM": ("Qwen3Config", UNTIED, 3.0),
    "Qwen3MoeForCausalLM": (
        "Qwen3MoeConfig",
        UNTIED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True},
        3.0,
    ),
}


def save_model(path: Path, architecture: str) -> TransformersEngine:
    """Saves a tiny random model, and returns it as the oracle."""
    import transformers

    name, changes, scale = MODELS[architecture]
    tokenizer = character_tokenizer()
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, name)(vocab_size=len(tokenizer), **(SIZES | tokens | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
            else:  # biases and norms that do something
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if "embed" in key or "lm_head" in key:
                parameter.mul_(4.0)
    model.save_pretrained(path)
    if architecture == "MiMoForCausalLM":
        file = path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": [architecture]}))
    return TransformersEngine(model, tokenizer)


DECODINGS = [
    {"led": 1, "led_depth": LAYERS, "led_draw": "marginal"},
    {"led": 1, "led_depth": LAYERS, "led_draw": "marginal", "led_latent_norm": 1},
    {"led": 1, "led_latent_layers": [1, 4, 3], "led_exploit": 0},
    {"led": 1, "led_depth": 4},
    {"led": 1, "led_depth": 3, "led_latent_norm": 1, "led_aggregation": "product"},
    {"led_decoding": "led_reference", "led_depth": LAYERS},
    {"led_decoding": "led_reference", "led_depth": 3, "led_latent_norm": 1},
    {"led_decoding": "top_k_control", "led_k": 4},
]


def requests():
    generator = random.Random(4)
    prompts = [random_text(generator, 5 + 3 * i) + [[THINK], [THINK, 50, CLOSE]][i % 5 == 4] for i in range(24)]
    params = [
        sampling_params(
            temperature=[0.7, 1.0, 0.0][i % 3],
            top_p=0.9,
            seed=i,
            logit_bias={THINK: 3.0} if i % 5 == 4 else None,
            max_tokens=12,
            extra_args=DECODINGS[i % len(DECODINGS)] | {"tag": i},
        )
        for i in range(24)
    ]
    return prompts, params


def test_every_architecture_is_tested():
    assert set(MODELS) == set(ARCHITECTURES)


@pytest.fixture
def inspected_here(monkeypatch):
    """vLLM would look at each model class in a process of its own, which takes longer than the test."""
    from vllm import ModelRegistry

    def register_class(architecture, lazily):
        register(architecture, getattr(vllm_models, lazily.partition(":")[2]))

    register = ModelRegistry.register_model
    monkeypatch.setattr(ModelRegistry, "register_model", register_class)


@pytest.mark.usefixtures("inspected_here")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tables_of_all_depths_agree_with_transformers(architecture, tmp_path):
    reference = save_model(tmp_path, architecture)
    engine = VLLMEngine(
        str(tmp_path),
        depth=LAYERS,
        max_model_len=256,
        max_num_seqs=32,
        max_num_batched_tokens=4096,
        kv_cache_memory_bytes=2**26,
    )
    try:
        assert engine.llm.llm_engine.model_config.architectures == [architecture]
        prompts, params = requests()
        outputs, traced = generate_traced(engine.llm, prompts, params)
        seen = check_agreement(reference, prompts, params, outputs, traced)
        assert seen["tables"] > 100
        assert seen["log-probabilities"] > 150
        assert seen["drawn by led_reference"] > 30
    finally:
        engine.llm.llm_engine.engine_core.shutdown()
        del engine
        gc.collect()


def test_a_model_that_hides_its_layers_is_refused_when_it_is_made(monkeypatch):
    class Hidden:
        def __init__(self, *, vllm_config, prefix):
            self.model = SimpleNamespace(layers=[torch.nn.Identity()] * 2)

    class LEDHidden(LatentStatesMixin, Hidden):
        pass

    config = SimpleNamespace(num_hidden_layers=4, hidden_size=8)
    vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(hf_text_config=config, dtype=torch.float32),
        scheduler_config=SimpleNamespace(max_num_seqs=2),
        additional_config={},
    )
    monkeypatch.setenv("LED_RL_DEPTH", "2")
    with pytest.raises(RuntimeError, match="LEDHidden does not give LED the residual stream that enters layer 3"):
        LEDHidden(vllm_config=vllm_config)
