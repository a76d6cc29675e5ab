"""The rows that a recipe evaluates on during training."""

from typing import Any

from datasets import Dataset
from transformers import AutoConfig

from led_rl.data import DatasetError, read_rows
from led_rl.decoding import DecodingError, check_decoding
from led_rl.recipe import RecipeError
from led_rl.thinking import MissingMarkersError
from led_rl.training.checks.rows import prompts_of
from led_rl.training.config import Recipe
from led_rl.training.evaluation_keys import evaluates, evaluation_decodings
from led_rl.training.reward_loading import try_rewards
from rewards import RewardError


def load_evaluation_rows(recipe: Recipe) -> Dataset | None:
    """Prompts and columns of `eval_dataset`, made as the training rows are; None where the recipe names none.

    Raises:
        RecipeError: what to evaluate without `eval_strategy`.
        DatasetError: names the file and the row.
    """
    run = recipe.run
    named = [key for key in ("eval_dataset", "eval_benchmarks") if getattr(run, key)]
    if named and not evaluates(recipe.training):
        raise RecipeError(f"{recipe.path}: {named[0]} without eval_strategy: set eval_strategy: steps and eval_steps")
    if run.eval_dataset is None:
        return None
    try:
        rows = read_rows(run.eval_dataset, run.eval_dataset_config, run.eval_dataset_split, run.eval_rows)
        return prompts_of(rows, run.eval_dataset, run)
    except DatasetError as error:
        raise DatasetError(f"{recipe.path}: eval_dataset: {error}") from error


def check_evaluation_decodings(recipe: Recipe, tokenizer: Any) -> None:
    """Raises RecipeError if the model cannot be evaluated under one of `eval_decodings`."""
    if not evaluates(recipe.training):
        return
    name, model = str(recipe.model.model_name_or_path), recipe.model
    trust = recipe.training.trust_remote_code
    config = AutoConfig.from_pretrained(name, revision=model.model_revision, trust_remote_code=trust)
    for label, decoding in evaluation_decodings(recipe.training).items():
        try:
            check_decoding(decoding, config, tokenizer)
        except (DecodingError, MissingMarkersError) as error:
            raise RecipeError(f"{recipe.path}: eval_decodings: {label}: {error} (model {name!r})") from error


def check_evaluation_rows(recipe: Recipe, checked: Any) -> None:
    """Raises, before weights are loaded, for rows that an evaluation could not sample or judge.

    Args:
        checked: the recipe's `Checked`, benchmarks included.

    Raises:
        RecipeError: a prompt leaves no room for a completion; names the dataset and the row.
        RewardError: the reward of a dataset fails on its first row.
    """
    datasets = checked.evaluation_rows or {}
    if not isinstance(datasets, dict):
        datasets = {"": datasets}
    room = recipe.training.vllm_max_model_length
    for label, dataset in datasets.items():
        name = label or "eval_dataset"
        try:
            try_rewards([checked.evaluation_rewards.get(label, checked.rewards[0])], dataset[0])
        except RewardError as error:
            raise RewardError(f"{recipe.path}: {name}: {error}") from error
        if room is None:
            continue
        for row, prompt in enumerate(dataset["prompt"], start=1):
            length = len(
                checked.tokenizer.apply_chat_template(
                    prompt, add_generation_prompt=True, tokenize=True, return_dict=False
                )
            )
            if length >= room:
                raise RecipeError(
                    f"{recipe.path}: {name}, row {row}: its prompt has {length} tokens, which leaves no room for a "
                    f"completion; vllm_max_model_length is {room}; raise it, or leave the row out"
                )
