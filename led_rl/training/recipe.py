"""Recipe (YAML) + command line -> checked config dataclasses: every key, type and value, before anything is loaded."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from led_rl.training.config import CONFIGS, Recipe, RecipeError

PATH_KEYS = ("deepspeed", "dataset")
DEFAULTS = {"use_vllm": True, "logging_steps": 1}  # of recipes; the configs' own are TRL's
# Keys of TRL's that would be set without effect here, and what to say instead.
ELSEWHERE = {
    "reward_weights": "give each entry of `rewards` its own `weight`",
    "data_seed": "GRPO orders the rows by `seed`",
    "resume_from_checkpoint": "a run goes on from its last whole checkpoint by itself; `resume: never` starts over",
}


def load_recipe(arguments: Sequence[str]) -> Recipe:
    """`[RECIPE.yaml, --key, value, ...]` -> Recipe. Overrides win over the file.

    Raises:
        RecipeError: a missing file, bad YAML, an unknown key, a wrong type, or a value that a config refuses.
    """
    if not arguments or arguments[0].startswith("-"):
        raise RecipeError("usage: train.py RECIPE.yaml [--key value ...]: the recipe comes first")
    path = Path(arguments[0])
    values = _read_yaml(path) | _overrides(arguments[1:])
    values = {"output_dir": f"runs/{path.stem}", "run_name": path.stem} | values
    fields = known_keys()
    for key, value in values.items():
        if key not in fields:
            raise RecipeError(_unknown_key(path, key, value))
        if key in ELSEWHERE:
            raise RecipeError(f"{path}: key {key!r} (given {value!r}) is not for recipes: {ELSEWHERE[key]}")
        values[key] = _typed(path, key, value, fields[key][1])
    for key in PATH_KEYS:
        if isinstance(values.get(key), str):
            values[key] = _resolve(path, key, values[key])
    if isinstance(values.get("model_name_or_path"), str):
        values["model_name_or_path"] = _model_folder(path, values["model_name_or_path"])

    def build(config: type) -> Any:
        try:
            given = DEFAULTS | values
            return config(**{key: value for key, value in given.items() if fields[key][0] is config})
        except (ValueError, TypeError) as error:
            raise RecipeError(f"{path}: {error}") from error

    recipe = Recipe(path, values, *map(build, CONFIGS))
    if not recipe.model.model_name_or_path:
        raise RecipeError(f"{path}: model_name_or_path is missing: give a hub id or a checkpoint folder")
    return recipe


@cache
def known_keys() -> dict[str, tuple[type, Any]]:
    """Every recipe key -> the config it belongs to, and its type."""
    keys: dict[str, tuple[type, Any]] = {}
    for config in CONFIGS:
        hints = typing.get_type_hints(config)
        for item in dataclasses.fields(config):
            if item.init:
                keys.setdefault(item.name, (config, hints[item.name]))
    return keys


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"recipe {str(path)!r} does not exist")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: `key: value` lines expected, got {type(values).__name__}")
    return values


def _overrides(arguments: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("--"):
            raise RecipeError(f"command line: --key value expected, got {key!r}")
        if not equals:
            if not rest:
                raise RecipeError(f"command line: {key} has no value")
            value = rest.pop(0)
        name = key.removeprefix("--").replace("-", "_")
        values[name] = _value_of(name, value)
    return values


def _value_of(key: str, text: str) -> Any:
    """A value of the command line, parsed as YAML.

    For keys that take text, a value that YAML reads as a mapping or list (`{problem}`) stays text.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        value = error
    takes_text = key in known_keys() and known_keys()[key][1] in (str, str | None)
    if takes_text and not isinstance(value, str | None):
        return text
    if isinstance(value, yaml.YAMLError):
        raise RecipeError(f"command line: --{key}: not YAML: {text!r}") from value
    return value


def _unknown_key(path: Path, key: str, value: Any) -> str:
    near = difflib.get_close_matches(str(key), known_keys(), n=5, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "see --help for all keys"
    return f"{path}: unknown key {key!r} (given {value!r}); {hint}"


def _typed(path: Path, key: str, value: Any, hint: Any) -> Any:
    """`value` as the key's type. YAML reads `1e-6` as text, so text that spells a number is one."""
    if value is None and not _allows_none(hint):
        raise RecipeError(f"{path}: key {key!r}: a value expected ({_spell(hint)}), got nothing")
    try:
        checked = TypeAdapter(hint, config={"arbitrary_types_allowed": True}).validate_python(value)
    except ValidationError as error:
        reasons = "; ".join(dict.fromkeys(detail["msg"] for detail in error.errors()))
        raise RecipeError(f"{path}: key {key!r}: {_spell(hint)} expected, got {value!r} ({reasons})") from error
    if isinstance(value, bool) and not isinstance(checked, bool):
        raise RecipeError(f"{path}: key {key!r}: {_spell(hint)} expected, got {value!r}")
    return checked


def _allows_none(hint: Any) -> bool:
    return hint is type(None) or hint is Any or type(None) in typing.get_args(hint)


def _spell(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_spell(arg) for arg in typing.get_args(hint) if arg is not type(None)) or str(hint)
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint).replace("typing.", "")


def _resolve(path: Path, key: str, value: str) -> str:
    """A file named in a recipe: as seen from here, from the recipe's folder, or from the folder above that."""
    if not value.endswith((".json", ".jsonl", ".yaml")):
        return value  # a hub id
    tried = [Path(value).expanduser(), path.parent / value, path.parent.parent / value]
    for candidate in tried:
        if candidate.is_file():
            return str(candidate)
    raise RecipeError(f"{path}: key {key!r}: file {value!r} not found (looked at {', '.join(map(str, tried))})")


def _model_folder(path: Path, value: str) -> str:
    """A checkpoint folder, as seen from here or from the recipe's folder; a hub id stays as it is."""
    tried = [Path(value).expanduser(), path.parent / value, path.parent.parent / value]
    return next((str(folder) for folder in tried if folder.is_dir()), value)


def help_text() -> str:
    """Every recipe key with its type, default and meaning, by config."""
    lines = ["usage: accelerate launch led_rl/train.py RECIPE.yaml [--key value ...]", ""]
    for config in CONFIGS:
        hints = typing.get_type_hints(config)
        lines.append(f"{config.__name__}:")
        for item in dataclasses.fields(config):
            if item.init and known_keys()[item.name][0] is config:
                default = item.default if item.default is not dataclasses.MISSING else "..."
                meaning = " ".join(str(item.metadata.get("help", "")).split())
                lines.append(f"  {item.name} ({_spell(hints[item.name])}; default {default!r}) {meaning}".rstrip())
        lines.append("")
    return "\n".join(lines)
