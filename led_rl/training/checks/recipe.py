"""What a recipe needs, checked before weights are loaded: model, tokenizer, dataset, rewards, golds, reports."""

from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from led_rl.training.checks.arguments import check_number_of_rows, check_trainer_arguments
from led_rl.training.checks.model import check_model
from led_rl.training.checks.reporting import check_reporting
from led_rl.training.checks.rows import check_gold_column, check_prompts, load_training_rows
from led_rl.training.checks.saving import check_folder, check_space, save_after_whole_rollouts
from led_rl.training.config import CheckError, Recipe
from led_rl.training.evaluation_rows import check_evaluation_decodings, load_evaluation_rows
from led_rl.training.reward_loading import load_reward_for, try_rewards
from led_rl.training.rollout import check_sampling_arguments
from led_rl.training.run_folder import is_main_process
from led_rl.training.schedules.arguments import check_deciding_reward
from rewards import RewardError


@dataclass
class Checked:
    """What the checks had to load anyway."""

    tokenizer: Any
    dataset: Dataset
    rewards: list[Any]
    evaluation_rows: Dataset | dict[str, Dataset] | None = None
    evaluation_rewards: dict[str, Any] = field(default_factory=dict)  # of the rows that bring their own


def check_recipe(recipe: Recipe) -> Checked:
    """Raises CheckError, DatasetError or RewardError: one clear message naming the key and what is wrong."""
    try:
        check_trainer_arguments(
            recipe.training, {"eval_dataset": recipe.run.eval_dataset or recipe.run.eval_benchmarks}
        )
        check_sampling_arguments(recipe.training)
        if is_main_process():
            check_folder(recipe.output_dir)
    except CheckError as error:
        raise CheckError(f"{recipe.path}: {error}") from error
    check_reporting(recipe)
    config, tokenizer = check_model(recipe)
    save_after_whole_rollouts(recipe.training)
    if is_main_process():
        check_space(recipe, config)
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
    check_evaluation_decodings(recipe, tokenizer)
    evaluation_rows = load_evaluation_rows(recipe)
    if evaluation_rows is not None:
        evaluation_rows = check_gold_column(recipe, evaluation_rows)
    check_prompts(recipe, dataset, config, tokenizer)
    try:
        check_deciding_reward(recipe.training, rewards)
        check_number_of_rows(len(dataset), recipe.training)
    except CheckError as error:
        raise CheckError(f"{recipe.path}: {error}") from error
    return Checked(tokenizer, dataset, rewards, evaluation_rows)
