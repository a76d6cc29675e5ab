"""What a recipe needs, checked before weights are loaded: model, tokenizer, dataset, rewards, golds, reports."""

from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from led_rl.training.checks.arguments import check_number_of_rows, check_trainer_arguments
from led_rl.training.checks.model import check_model
from led_rl.training.checks.reporting import check_reporting
from led_rl.training.checks.rows import check_gold_column, check_prompts, load_training_rows
from led_rl.training.config import CheckError, Recipe
from led_rl.training.reward_loading import load_reward_for, try_rewards
from led_rl.training.rollout import check_sampling_arguments
from rewards import RewardError


@dataclass
class Checked:
    """What the checks had to load anyway."""

    tokenizer: Any
    dataset: Dataset
    rewards: list[Any]


def check_recipe(recipe: Recipe) -> Checked:
    """Raises CheckError, DatasetError or RewardError: one clear message naming the key and what is wrong."""
    try:
        check_trainer_arguments(recipe.training, {})
        check_sampling_arguments(recipe.training)
    except CheckError as error:
        raise CheckError(f"{recipe.path}: {error}") from error
    check_reporting(recipe)
    config, tokenizer = check_model(recipe)
    dataset = load_training_rows(recipe)
    try:
        rewards = [
            load_reward_for(tokenizer, **{key: value for key, value in reward.items() if key != "weight"})
            for reward in recipe.run.rewards
        ]
        dataset = check_gold_column(recipe, dataset)
        try_rewards(rewards, dataset[0])
    except RewardError as error:
        raise RewardError(f"{recipe.path}: rewards: {error}") from error
    check_prompts(recipe, dataset, config, tokenizer)
    try:
        check_number_of_rows(len(dataset), recipe.training)
    except CheckError as error:
        raise CheckError(f"{recipe.path}: {error}") from error
    return Checked(tokenizer, dataset, rewards)
