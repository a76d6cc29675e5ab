"""Whether the rows of a recipe's dataset can be trained on: columns, golds, and the length of each prompt."""

from typing import Any

from datasets import Dataset

from led_rl.data import DatasetError, read_rows, to_prompts
from led_rl.decoding import DecodingParams
from led_rl.thinking import MissingMarkersError, ThinkMarkers
from led_rl.training.config import CheckError, Recipe, RunConfig
from rewards import check_golds

GOLD_KINDS = {"math_answer": "math", "choice_letter": "choice_letter"}
# What TRL hands to every reward beside the columns, and columns that make it look for images or environments.
RESERVED = (
    "prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments",
    "environment", "image", "images",
)  # fmt: skip


def load_training_rows(recipe: Recipe) -> Dataset:
    """Rows with a chat prompt. Raises DatasetError; columns whose names TRL needs are left out with a note."""
    run = recipe.run
    try:
        rows = read_rows(run.dataset, run.dataset_config, run.dataset_split, run.max_rows)
        taken = sorted({column for row in rows for column in row if column in RESERVED})
        needed = [column for column in (run.problem_column, run.answer_column) if column in taken]
        if needed:
            raise DatasetError(f"column {needed[0]!r} cannot be used: TRL takes the name for something else; rename it")
        if taken:
            print(f"{recipe.path}: leaving out columns {', '.join(taken)} of {run.dataset!r}: TRL needs these names")
            rows = [{key: value for key, value in row.items() if key not in RESERVED} for row in rows]
        return prompts_of(rows, run.dataset, run)
    except DatasetError as error:
        raise DatasetError(f"{recipe.path}: dataset: {error}") from error


def prompts_of(rows: list[dict[str, Any]], source: str, run: RunConfig) -> Dataset:
    """Rows with a chat prompt, made as the recipe's keys say. Raises DatasetError naming `source` and the row."""
    return to_prompts(
        rows,
        source,
        run.problem_column,
        run.answer_column,
        run.answer_extraction,
        run.prompt_template,
        run.system_prompt,
    )


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


def check_prompts(recipe: Recipe, dataset: Dataset, config: Any, tokenizer: Any) -> None:
    """Raises DatasetError for a prompt that leaves no room for a completion, CheckError if no prompt can be thought on.

    Completions that the room cuts shorter than max_completion_length are counted on stdout.
    """
    training = recipe.training
    options: Any = training.chat_template_kwargs or {}
    try:
        prompts = tokenizer.apply_chat_template(
            list(dataset["prompt"]), add_generation_prompt=True, tokenize=True, return_dict=False, **options
        )
    except Exception as error:  # a template raises what it likes
        raise CheckError(f"{recipe.path}: the chat template fails: {type(error).__name__}: {error}") from error
    lengths = [len(prompt) for prompt in prompts]
    room, key = training.vllm_max_model_length, "vllm_max_model_length"
    if room is None or not training.use_vllm:
        room, key = getattr(config.get_text_config(), "max_position_embeddings", None), "the model's positions"
    if room is not None:
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if lengths[longest] > room - 1:
            over = sum(length > room - 1 for length in lengths)
            raise DatasetError(
                f"{recipe.path}: {over} of {len(lengths)} prompts are longer than {key} ({room}) minus one token; the "
                f"longest is row {longest + 1} with {lengths[longest]}. Raise {key}, or leave such rows out"
            )
        wanted: int = training.max_completion_length  # type: ignore[assignment]
        cut = sum(length + wanted > room for length in lengths)
        if cut:
            print(
                f"{recipe.path}: {cut} of {len(lengths)} prompts leave completions less than max_completion_length "
                f"({wanted}) within {key} ({room}); the least room is {room - lengths[longest]} tokens"
            )
    _check_phases(recipe, prompts, tokenizer, training.decoding_params())


def _check_phases(recipe: Recipe, prompts: list[list[int]], tokenizer: Any, decoding: DecodingParams) -> None:
    """Raises CheckError if the chat template closes the think part of every prompt: no token would be explored."""
    if decoding.is_standard or not decoding.think_only:
        return
    try:
        markers = ThinkMarkers.from_tokenizer(tokenizer, decoding.start_marker, decoding.end_marker)
    except MissingMarkersError:
        return
    if not any(markers.thinking_after(prompt, unmarked=True) for prompt in prompts):
        raise CheckError(
            f"{recipe.path}: decoding: {decoding.decoding!r} explores while the model thinks, and every prompt ends "
            f"behind {decoding.end_marker!r}: the chat template closes the think part (chat_template_kwargs: "
            f"{recipe.training.chat_template_kwargs!r}; enable_thinking: false does that). Allowed: a template that "
            "leaves it open, or led_think_only: false"
        )
