"""From a checked recipe to a trainer, ready to train."""

import os
from typing import Any

from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import get_peft_config, get_quantization_config

from led_rl.training.checks.recipe import Checked
from led_rl.training.config import Recipe
from led_rl.training.progress import StepProgress
from led_rl.training.trainer import LEDGRPOTrainer


def build_trainer(recipe: Recipe, checked: Checked) -> LEDGRPOTrainer:
    """Loads the weights and starts the rollout engine."""
    training = recipe.training
    if recipe.run.wandb_mode:
        os.environ["WANDB_MODE"] = recipe.run.wandb_mode
    os.environ.setdefault("WANDB_DIR", str(recipe.output_dir))
    recipe.output_dir.mkdir(parents=True, exist_ok=True)
    trainer = LEDGRPOTrainer(**trainer_arguments(recipe, checked))
    trainer.provenance.recipe = recipe.values
    trainer.evaluation_rewards = checked.evaluation_rewards
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if not training.disable_tqdm:
        trainer.add_callback(StepProgress())
    return trainer


def trainer_arguments(recipe: Recipe, checked: Checked) -> dict[str, Any]:
    """What a GRPOTrainer, LED-RL's or TRL's, is built with."""
    training, model = recipe.training, recipe.model
    training.reward_weights = [float(reward.get("weight", 1.0)) for reward in recipe.run.rewards]
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype or "float32",
        **dict(training.model_init_kwargs or {}),  # type: ignore[arg-type]
    }
    return {
        "model": model.model_name_or_path,
        "reward_funcs": checked.rewards,
        "args": training,
        "train_dataset": checked.dataset,
        "eval_dataset": checked.evaluation_rows,
        "processing_class": checked.tokenizer,
        "quantization_config": get_quantization_config(model),
        "peft_config": get_peft_config(model),
    }
