"""Models of `led-rl benchmark`: checkpoints, or built-in shapes of which only the configuration is written to disk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A Qwen3 with random weights, and the sizes it is measured at unless others are asked for.

    `explored`: fraction of the rows that explore. The quickstart's is its own: 15.9 % of the thinking tokens, mean of
    the 32 GRPO steps with LED. That of the others is assumed.
    """

    about: str
    depth: int
    batch: int
    explored: float
    config: dict[str, Any]


SHAPES = {
    "quickstart": Shape(
        "the quickstart's toy model",
        4,
        128,
        0.16,
        {
            "vocab_size": 119,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 8,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "tie_word_embeddings": True,
        },
    ),
    "deep": Shape(
        "the studies' deep toy model",
        8,
        128,
        0.1,
        {
            "vocab_size": 119,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 16,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "tie_word_embeddings": True,
        },
    ),
    "deep-50m": Shape(
        "the studies' deep model for a GPU",
        8,
        128,
        0.1,
        {
            "vocab_size": 119,
            "hidden_size": 448,
            "intermediate_size": 1280,
            "num_hidden_layers": 24,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "tie_word_embeddings": True,
        },
    ),
    "vocab-151936": Shape(
        "a small model with a real vocabulary",
        8,
        32,
        0.1,
        {
            "vocab_size": 151936,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-4b": Shape(
        "Qwen3-4B, for a GPU",
        8,
        128,
        0.1,
        {
            "vocab_size": 151936,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "tie_word_embeddings": True,
            "rope_theta": 5_000_000.0,
        },
    ),
}


@dataclass(frozen=True)
class BenchmarkModel:
    path: str
    layers: int
    hidden: int
    vocab: int
    random_weights: bool


def write_shape(name: str, folder: Path, longest: int, vocab: int | None = None) -> BenchmarkModel:
    """Writes the configuration of a built-in shape for sequences of up to `longest` tokens."""
    shape = SHAPES[name].config | ({"vocab_size": vocab} if vocab else {})
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "max_position_embeddings": longest,
        "eos_token_id": 0,
        "pad_token_id": 0,
        **shape,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return BenchmarkModel(str(folder), shape["num_hidden_layers"], shape["hidden_size"], shape["vocab_size"], True)


def read_checkpoint(path: str) -> BenchmarkModel:
    """Sizes of a checkpoint folder or hub id.

    Raises:
        OSError, ValueError: there is no readable configuration.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path).get_text_config()
    return BenchmarkModel(path, config.num_hidden_layers, config.hidden_size, config.vocab_size, False)
