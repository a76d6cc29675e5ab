"""Random Qwen3 models with a character tokenizer, made on the spot: what the acceptance and the tests run."""

import math
import string
from typing import Any

import torch

THINK, CLOSE = 3, 4  # token ids of the think markers of `character_tokenizer`
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
WIDE = {  # Qwen3-4B's width and vocabulary, a quarter of its layers: for a GPU
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 9,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}


def character_tokenizer(think_tokens: bool = True) -> Any:
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


def save_tiny_model(
    path: Any,
    layers: int = 12,
    think_tokens: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Any:
    """Saves a random Qwen3, tiny unless `changes` of its configuration say otherwise; returns the path.

    Its weights are scaled up: as initialised, all of its layers' distributions are nearly flat.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = character_tokenizer(think_tokens)
    tokenizer.save_pretrained(path)
    torch.manual_seed(seed)
    config = Qwen3Config(
        **{
            **TINY,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": layers,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }
        | changes
    )
    model: Any = Qwen3ForCausalLM(config)
    scale = 3.0 * math.sqrt(TINY["hidden_size"] / config.hidden_size)
    embeddings: tuple[Any, ...] = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
        for weight in {id(weight): weight for weight in embeddings}.values():  # one, if they are tied
            weight.mul_(4.0)
    model.to(dtype).save_pretrained(path)
    return path
