"""The rows that a recipe evaluates on during training."""

from datasets import Dataset

from led_rl.data import DatasetError, read_rows, to_prompts
from led_rl.recipe import RecipeError
from led_rl.training.config import Recipe
from led_rl.training.evaluation_keys import evaluates


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
        return to_prompts(
            rows,
            run.eval_dataset,
            run.problem_column,
            run.answer_column,
            run.answer_extraction,
            run.prompt_template,
            run.system_prompt,
        )
    except DatasetError as error:
        raise DatasetError(f"{recipe.path}: eval_dataset: {error}") from error
