"""LoRA adapters: their base model, whether they fit it, and both merged into one checkpoint."""

import json
from pathlib import Path
from typing import Any

from led_rl.evaluation.rows import EvaluationError

ADAPTER = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def base_of(label: str, folder: Path) -> str:
    """The base model that an adapter's folder names; raises EvaluationError if it names none."""
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise EvaluationError(f"checkpoint {label}: {folder / ADAPTER} names no base model (base_model_name_or_path)")
    return base


def check_fit(label: str, adapter: str, base: str, config: Any) -> None:
    """Whether an adapter can be merged into a model of this configuration, found without loading either.

    Raises:
        EvaluationError: it holds no weights, or others than it adds to such a model, or is no LoRA adapter.
    """
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    folder = Path(adapter)
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise EvaluationError(f"checkpoint {label}: the adapter {folder} holds no weights ({' or '.join(WEIGHTS)})")
    try:
        settings = PeftConfig.from_pretrained(adapter)
    except (ValueError, TypeError, KeyError) as error:
        raise EvaluationError(f"checkpoint {label}: {folder / ADAPTER} cannot be read: {first_line(error)}") from error
    if settings.is_prompt_learning:
        kind = getattr(settings.peft_type, "value", settings.peft_type)
        raise EvaluationError(
            f"checkpoint {label}: {folder} is an adapter of type {kind}, which cannot be merged into weights; LoRA can"
        )
    file = folder / WEIGHTS[0]
    if not file.is_file():
        return  # older adapters: pickled
    try:
        with torch.device("meta"):
            model: Any = get_peft_model(AutoModelForCausalLM.from_config(config), settings)
        expected = {name: list(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
        with safe_open(str(file), "pt") as tensors:
            found = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except Exception as error:  # whatever peft, transformers and safetensors raise
        raise EvaluationError(_misfit(label, adapter, base, first_line(error))) from error
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name, expected.get(name)) != expected.get(name, found.get(name)):
            told = f"{name} has the shape {found[name]}, and the base takes {expected[name]}"
            raise EvaluationError(_misfit(label, adapter, base, told))
    if strays := sorted(name for name in found.keys() - expected.keys() if "lora_" in name):
        raise EvaluationError(_misfit(label, adapter, base, f"the base has no place for {strays[0]}"))


def merge(adapter: str, base: str, tokenizer: Any, folder: Path) -> str:
    """Writes base and adapter as one checkpoint into `folder`; returns what an engine loads."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    try:
        merged: Any = PeftModel.from_pretrained(model, adapter)
        merged = merged.merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as error:
        raise EvaluationError(
            f"LoRA adapter {adapter!r} does not fit its base {base!r}: {first_line(error)}"
        ) from error
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def first_line(error: Exception) -> str:
    """What an exception of another library says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _misfit(label: str, adapter: str, base: str, told: str) -> str:
    return f"checkpoint {label}: the LoRA adapter {adapter!r} does not fit its base model {base!r}: {told}"
