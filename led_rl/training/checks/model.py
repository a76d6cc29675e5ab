"""Whether model and tokenizer can do what a recipe's decoding asks, before weights are loaded."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from led_rl.decoding import DecodingError, check_decoding
from led_rl.thinking import MissingMarkersError
from led_rl.training.checks.arguments import check_architecture
from led_rl.training.config import CheckError, Recipe
from led_rl.training.schedules.keys import largest_decoding

ADAPTER = "adapter_config.json"


def check_model(recipe: Recipe) -> tuple[Any, Any]:
    """The model's config and its tokenizer. Raises CheckError naming the key and what is wrong."""
    name, revision = recipe.model.model_name_or_path, recipe.model.model_revision
    assert name is not None
    here = f"{recipe.path}: model_name_or_path"
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise CheckError(f"{here}: folder {name!r} does not exist")
    if (Path(name) / ADAPTER).is_file() and not (Path(name) / "config.json").is_file():
        raise CheckError(f"{here}: {_adapter_refusal(Path(name))}")
    trust = recipe.training.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust)
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=trust, padding_side="left", truncation_side="left"
        )
    except (OSError, ValueError) as error:
        raise CheckError(
            f"{here}: {name!r} is neither a checkpoint folder nor a model the hub gives: {str(error).splitlines()[0]}"
        ) from error
    if tokenizer.chat_template is None:
        raise CheckError(f"{here}: the tokenizer of {name!r} has no chat template")
    if tokenizer.eos_token_id is None:
        pad = "no pad token either" if tokenizer.pad_token_id is None else f"{tokenizer.pad_token!r} as pad token"
        raise CheckError(
            f"{here}: the tokenizer of {name!r} has no end-of-sequence token ({pad}): no completion could end. Name "
            "one in its tokenizer_config.json (eos_token)"
        )
    try:
        check_architecture(config, recipe.training)
        check_decoding(largest_decoding(recipe.training), config, tokenizer)
    except (DecodingError, CheckError) as error:
        raise CheckError(f"{recipe.path}: {error} (model {name!r})") from error
    except MissingMarkersError as error:
        raise CheckError(
            f"{recipe.path}: decoding: {recipe.training.decoding!r} with model {name!r}: {error}; "
            "allowed besides: led_think_only: false, which explores all tokens"
        ) from error
    return config, tokenizer


def _adapter_refusal(folder: Path) -> str:
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    return (
        f'{str(folder)!r} is an adapter of {base!r}, not a model. Merge it first: python -c "from peft import '
        f"AutoPeftModelForCausalLM as A; A.from_pretrained('{folder}').merge_and_unload().save_pretrained('MERGED')\", "
        "copy the tokenizer's files there, and name that folder"
    )
