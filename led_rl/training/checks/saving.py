"""Whether a run can save what it trains: its folder can be written, a checkpoint fits, and saves end whole rollouts."""

import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from trl import get_peft_config

from led_rl.training.checkpoints import numbered
from led_rl.training.config import CheckError, LEDGRPOConfig, Recipe
from led_rl.training.run_folder import is_main_process

GIB = 2**30
ADAM = 2  # numbers that the optimizer keeps for each trained parameter, in the weights' own type
DEEPSPEED = 12  # bytes for each trained parameter: a float32 copy of it, and the optimizer's two numbers


def check_folder(folder: Path) -> None:
    """Makes the run's folder and writes into it. Raises CheckError if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise CheckError(
            f"output_dir: {folder} cannot be written ({error.strerror}): no checkpoint could be saved. Free it, or "
            "give another output_dir"
        ) from error


def check_space(recipe: Recipe, config: Any) -> None:
    """Raises CheckError if a checkpoint and the final model do not fit into the run's folder; warns if few do.

    Args:
        config: the model's.
    """
    args, folder = recipe.training, recipe.output_dir
    checkpoint, model = bytes_of_checkpoint(recipe, config)
    if args.save_strategy == "no":
        checkpoint = 0
    free = shutil.disk_usage(folder).free
    if free < checkpoint + model:
        what = "a checkpoint and the final model take" if checkpoint else "the final model takes"
        raise CheckError(
            f"{recipe.path}: output_dir: {folder} has {free / GIB:.3g} GiB free, and {what} about "
            f"{(checkpoint + model) / GIB:.3g} GiB. Free some, or give another output_dir"
        )
    steps = args.max_steps / args.save_steps if args.max_steps > 0 and args.save_steps >= 1 else 1
    kept = args.save_total_limit + 1 if args.save_total_limit else math.ceil(steps)  # one more while it is written
    more = max(0, kept - len(numbered(folder)))
    if free < model + more * checkpoint:
        print(
            f"warning: {folder} has {free / GIB:.3g} GiB free, and this run writes {more} more checkpoints of about "
            f"{checkpoint / GIB:.3g} GiB that are there at a time: save_total_limit keeps fewer"
        )


def bytes_of_checkpoint(recipe: Recipe, config: Any) -> tuple[int, int]:
    """Estimated bytes of a checkpoint and of the final model, by counting parameters without memory.

    Both are 0 for a model whose class is not transformers' own. Raises CheckError for an adapter that fits no layer.
    """
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        return 0, 0
    sharded = bool(recipe.training.deepspeed)
    cast = sharded and (recipe.values.get("bf16") or recipe.values.get("fp16"))  # DeepSpeed casts the model itself
    half = cast or recipe.model.dtype in ("bfloat16", "float16")
    with torch.device("meta"):
        model: Any = model_class(config)  # from_config would share it out under ZeRO-3
    adapter = get_peft_config(recipe.model)
    if adapter is not None:
        from peft import get_peft_model

        try:
            model = get_peft_model(model, adapter)
        except ValueError as error:
            raise CheckError(f"{recipe.path}: use_peft: {str(error).splitlines()[0]}") from error
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    weights = trained * (2 if half else 4)
    if sharded:
        copies = 1 if HfDeepSpeedConfig(recipe.training.deepspeed).is_zero3() else 2  # as a model, and with the shards
        return copies * weights + DEEPSPEED * trained, weights
    return weights * (1 + ADAM), weights


def save_after_whole_rollouts(args: LEDGRPOConfig) -> None:
    """Rounds `save_steps` up to a multiple of the steps that one generation serves, and says so.

    Rollouts are no part of a checkpoint, so that a run resumed between two generations samples anew and differs from
    the unbroken run.
    """
    assert args.steps_per_generation is not None
    micro = args.steps_per_generation * args.num_iterations  # micro-batches of a generation
    window = micro // math.gcd(micro, args.gradient_accumulation_steps)
    if window <= 1 or args.save_strategy == "no":
        return
    why = (
        f"generations end with every step that {window} divides (steps_per_generation {args.steps_per_generation}, "
        f"num_iterations {args.num_iterations}, gradient_accumulation_steps {args.gradient_accumulation_steps}), and "
        "only a run resumed there is the unbroken run's equal"
    )
    if args.save_strategy != "steps" or args.save_steps < 1:
        said = f"warning: {why}; give save_steps as a multiple of {window}"
    elif args.save_steps % window:
        asked, args.save_steps = args.save_steps, math.ceil(args.save_steps / window) * window
        said = f"save_steps: {asked:g} is {args.save_steps} here: {why}"
    else:
        return
    if is_main_process():
        print(said)
