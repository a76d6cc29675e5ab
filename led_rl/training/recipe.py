"""A training recipe (YAML) and the command line -> checked config dataclasses, before anything is loaded."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from led_rl.recipe import RecipeError, checked, described, keys_of, overrides, read_yaml, resolved
from led_rl.training.checks.values import check_ranges
from led_rl.training.config import CONFIGS, Recipe
from led_rl.training.launcher import settings_of_the_launcher

PATH_KEYS = ("deepspeed", "fsdp_config", "dataset", "eval_dataset")
DEFAULTS = {"use_vllm": True, "logging_steps": 1}  # of recipes; the configs' own are TRL's
# Keys of TRL's that would be set without effect here, and what to say instead.
ELSEWHERE = {
    "reward_weights": "give each entry of `rewards` its own `weight`",
    "data_seed": "GRPO orders the rows by `seed`",
    "resume_from_checkpoint": "a run goes on from its last whole checkpoint by itself; `resume: never` starts over",
}


def load_recipe(arguments: Sequence[str], instead: Mapping[str, Any] | None = None) -> Recipe:
    """`[RECIPE.yaml, --key, value, ...]` -> Recipe. Overrides win over the file.

    Args:
        instead: values that the configs get in place of the recipe's, which `Recipe.values` keeps: for commands that
            read the recipe on a machine on which it cannot run.

    Raises:
        RecipeError: a missing file, bad YAML, an unknown key, a wrong type, or a value that a config refuses.
    """
    if not arguments or arguments[0].startswith("-"):
        raise RecipeError("usage: train.py RECIPE.yaml [--key value ...]: the recipe comes first")
    path, fields = Path(arguments[0]), known_keys()
    values = read_yaml(path) | overrides(arguments[1:], fields)
    values = {"output_dir": f"runs/{path.stem}", "run_name": path.stem} | values
    values |= settings_of_the_launcher(values)
    for key, value in values.items():
        values[key] = checked(path, key, value, fields)
        if key in ELSEWHERE:
            raise RecipeError(f"{path}: key {key!r} (given {value!r}) is not for recipes: {ELSEWHERE[key]}")
    for key in PATH_KEYS:
        if isinstance(values.get(key), str):
            values[key] = resolved(path, key, values[key])
    if isinstance(values.get("model_name_or_path"), str):
        values["model_name_or_path"] = _model_folder(path, values["model_name_or_path"])

    def build(config: type) -> Any:
        try:
            given = DEFAULTS | _evaluation(values) | values | dict(instead or {})
            made = config(**{key: value for key, value in given.items() if fields[key][0] is config})
            check_ranges(vars(made))
            return made
        except (ValueError, TypeError) as error:
            raise RecipeError(f"{path}: {error}") from error

    recipe = Recipe(path, values, *map(build, CONFIGS))
    if not recipe.model.model_name_or_path:
        raise RecipeError(f"{path}: model_name_or_path is missing: give a hub id or a checkpoint folder")
    return recipe


@cache
def known_keys() -> dict[str, tuple[type, Any]]:
    """Every recipe key -> the config it belongs to, and its type."""
    return keys_of(*CONFIGS)


def _evaluation(values: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that names what to evaluate on evaluates with the live engine."""
    if not (values.get("eval_dataset") or values.get("eval_benchmarks")):
        return {}
    return {"eval_decodings": list(dict.fromkeys(["standard", values.get("decoding", "standard")]))}


def _model_folder(path: Path, value: str) -> str:
    """A checkpoint folder, as seen from here or from the recipe's folder; a hub id stays as it is."""
    tried = [Path(value).expanduser(), path.parent / value, path.parent.parent / value]
    return next((str(folder) for folder in tried if folder.is_dir()), value)


def help_text() -> str:
    """Every recipe key with its type, default and meaning, by config."""
    usage = "usage: accelerate launch led_rl/train.py RECIPE.yaml [--key value ...]"
    return "\n".join([usage, "", *described(CONFIGS, known_keys())])
