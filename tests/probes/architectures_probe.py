"""Compares vLLM with transformers on tiny random models; tests/engines/vllm_plugin/test_architectures.py judges.

architectures_probe.py FOLDER FACTS    saves the models in a folder, and writes by architecture to a JSON file what was
                                       seen to agree, or the error
"""

import gc
import json
import random
import sys
import traceback
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS / "engines" / "vllm_plugin")]

import torch  # noqa: E402
from agreement import CLOSE, THINK, check_agreement, generate_traced, random_text, sampling_params  # noqa: E402
from conftest import character_tokenizer  # noqa: E402

from led_rl.engines.transformers_engine import TransformersEngine  # noqa: E402
from led_rl.engines.vllm_engine import VLLMEngine  # noqa: E402
from led_rl.engines.vllm_plugin import models  # noqa: E402

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


def register_classes() -> None:
    """Without this, vLLM looks at each model class in a process of its own first, which takes longer than the rest."""
    from vllm import ModelRegistry

    register = ModelRegistry.register_model

    def register_class(architecture, lazily):
        register(architecture, getattr(models, lazily.partition(":")[2]))

    ModelRegistry.register_model = register_class


def what_agrees(path: Path, architecture: str) -> dict[str, int]:
    reference = save_model(path, architecture)
    engine = VLLMEngine(
        str(path),
        depth=LAYERS,
        max_model_len=256,
        max_num_seqs=32,
        max_num_batched_tokens=4096,
        kv_cache_memory_bytes=2**24,
    )
    assert engine.llm.llm_engine.model_config.architectures == [architecture]
    prompts, params = requests()
    outputs, traced = generate_traced(engine.llm, prompts, params)
    return check_agreement(reference, prompts, params, outputs, traced)


def main() -> None:
    folder, facts = Path(sys.argv[1]), {}
    register_classes()
    for architecture in MODELS:
        try:
            facts[architecture] = what_agrees(folder / architecture, architecture)
        except Exception:  # the others are still worth knowing
            facts[architecture] = {"error": traceback.format_exc()[-3000:]}
        gc.collect()  # an engine that goes ends the parallel groups, and the next makes those that it needs
    Path(sys.argv[2]).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
