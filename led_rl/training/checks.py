"""What a recipe needs, checked before weights are loaded: model, tokenizer, dataset, rewards, golds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer

from led_rl.data import DatasetError, read_rows, to_prompts
from led_rl.decoding import DecodingError, UserError, check_decoding
from led_rl.thinking import MissingMarkersError
from led_rl.training.config import Recipe
from led_rl.training.evaluation_rows import load_evaluation_rows
from led_rl.training.reward_loading import load_reward_for, try_rewards
from rewards import RewardError, check_golds

GOLD_KINDS = {"math_answer": "math", "choice_letter": "choice_letter"}


class CheckError(UserError):
    """The recipe is well-formed, but what it names cannot be used together, or not at all."""


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
    tokenizer = check_model(recipe)
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
    evaluation_rows = load_evaluation_rows(recipe)
    if evaluation_rows is not None:
        evaluation_rows = check_gold_column(recipe, evaluation_rows)
    return Checked(tokenizer, dataset, rewards, evaluation_rows)


def check_model(recipe: Recipe) -> Any:
    """The tokenizer, if model and tokenizer can do what the recipe's decoding asks."""
    name, revision = recipe.model.model_name_or_path, recipe.model.model_revision
    assert name is not None
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise CheckError(f"{recipe.path}: model_name_or_path: folder {name!r} does not exist")
    trust = recipe.training.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust)
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=trust, padding_side="left", truncation_side="left"
        )
    except (OSError, ValueError) as error:
        raise CheckError(
            f"{recipe.path}: model_name_or_path: {name!r} is neither a checkpoint folder nor a model the hub gives: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if tokenizer.chat_template is None:
        raise CheckError(f"{recipe.path}: model_name_or_path: the tokenizer of {name!r} has no chat template")
    try:
        check_decoding(recipe.training.decoding_params(), config, tokenizer)
    except DecodingError as error:
        raise CheckError(f"{recipe.path}: {error} (model {name!r})") from error
    except MissingMarkersError as error:
        raise CheckError(
            f"{recipe.path}: decoding: {recipe.training.decoding!r} with model {name!r}: {error}; "
            "allowed besides: led_think_only: false, which explores all tokens"
        ) from error
    return tokenizer


def load_training_rows(recipe: Recipe) -> Dataset:
    run = recipe.run
    try:
        rows = read_rows(run.dataset, run.dataset_config, run.dataset_split, run.max_rows)
        return to_prompts(
            rows,
            run.dataset,
            run.problem_column,
            run.answer_column,
            run.answer_extraction,
            run.prompt_template,
            run.system_prompt,
        )
    except DatasetError as error:
        raise DatasetError(f"{recipe.path}: dataset: {error}") from error


def check_gold_column(recipe: Recipe, dataset: Dataset) -> Dataset:
    """The dataset without rows of unusable golds, if the recipe drops them; otherwise they are an error."""
    run = recipe.run
    problems: dict[int, str] = {}  # by row
    if run.answer_column:
        for row, answer in enumerate(dataset["answer"]):
            if answer is None:
                problems[row] = f"no answer ({run.answer_extraction}) in column {run.answer_column!r}"
    for reward in run.rewards:
        kind = GOLD_KINDS.get(reward["name"])
        if kind is None:
            continue
        column = reward.get("gold_column", "answer")
        if column not in dataset.column_names:
            raise DatasetError(
                f"{recipe.path}: reward {reward['name']!r} reads column {column!r}, which {run.dataset!r} lacks "
                f"(columns: {', '.join(dataset.column_names)}); set answer_column"
            )
        for gold in check_golds(dataset[column], kind):
            problems.setdefault(gold.row, f"{gold.gold!r} {gold.reason}")
    if not problems:
        return dataset
    listed = "; ".join(f"row {row + 1}: {problems[row]}" for row in sorted(problems)[:20])
    more = f" and {len(problems) - 20} more" if len(problems) > 20 else ""
    if run.bad_golds == "refuse":
        raise DatasetError(
            f"{recipe.path}: {len(problems)} of {len(dataset)} golds in {run.dataset!r} are unusable: {listed}{more}. "
            "Mend them, or set bad_golds: drop"
        )
    print(f"dropping {len(problems)} of {len(dataset)} rows with unusable golds: {listed}{more}")
    if len(problems) == len(dataset):
        raise DatasetError(f"{recipe.path}: no row of {run.dataset!r} has a usable gold")
    return dataset.select([row for row in range(len(dataset)) if row not in problems])
