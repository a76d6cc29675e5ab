"""Recipe (YAML) and command line -> the values of config dataclasses: every key and type, before anything is loaded.

Training and evaluation read their recipes here, so that both have the same errors and the same overrides.
"""

import dataclasses
import difflib
import sysconfig
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from led_rl.decoding import UserError

Keys = Mapping[str, tuple[type, Any]]  # key -> the config it belongs to, and its type


class RecipeError(UserError):
    """Something in a recipe is wrong; names the file, the key, what was given and what is allowed."""


def keys_of(*configs: type) -> dict[str, tuple[type, Any]]:
    """Every key of the config dataclasses; where two have the same, the first one's."""
    keys: dict[str, tuple[type, Any]] = {}
    for config in configs:
        hints = typing.get_type_hints(config)
        for item in dataclasses.fields(config):
            if item.init:
                keys.setdefault(item.name, (config, hints[item.name]))
    return keys


class _Loader(yaml.SafeLoader):
    """YAML whose mappings name a key once: of two, YAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} stands twice", node.start_mark)
        return mapping


def find_recipe(name: str) -> Path:
    """The file itself, or the one of that name among the recipes that come with led_rl (a clone's or an installed one).

    Raises:
        RecipeError: there is no such file.
    """
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise RecipeError(f"recipe {name!r}: {error.strerror}") from error
    parts = path.parts[1:] if path.parts[:1] == ("recipes",) else path.parts
    for folder in recipe_folders():
        if not path.is_absolute() and (found := folder.joinpath(*parts)).is_file():
            return found
    raise RecipeError(f"recipe {name!r} does not exist")


def recipe_folders() -> list[Path]:
    """Where the recipes that come with led_rl may lie: beside the package in a clone, else in the data folder."""
    beside = Path(__file__).resolve().parent.parent / "recipes"
    installed = Path(sysconfig.get_path("data")) / "share" / "led-rl" / "recipes"
    return [folder for folder in (beside, installed) if folder.is_dir()]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises RecipeError if the file is missing or holds something else."""
    if not path.is_file():
        raise RecipeError(f"recipe {str(path)!r} does not exist")
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not text, or a date that does not exist
        raise RecipeError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: `key: value` lines expected, got {type(values).__name__}")
    return values


def overrides(arguments: Sequence[str], keys: Keys) -> dict[str, Any]:
    """`--key value` pairs of the command line, `-` in a key for `_`.

    A key whose type is a list or mapping takes several values, each of them text. A key that is true or false may
    stand alone: it is then true.
    """
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not key.startswith("--"):
            raise RecipeError(f"command line: --key value expected, got {key!r}")
        name = key.removeprefix("--").replace("-", "_")
        hint = keys[name][1] if name in keys else None
        given = [value] if equals else []
        while rest and not rest[0].startswith("--") and (not given or (not equals and _takes_several(hint))):
            given.append(rest.pop(0))
        if not given and hint is bool:
            values[name] = True
            continue
        if not given:
            raise RecipeError(f"command line: {key} has no value")
        values[name] = given if len(given) > 1 else value_of(name, given[0], keys)
    return values


def value_of(key: str, text: str, keys: Keys) -> Any:
    """A value of the command line, parsed as YAML.

    For keys that take text, a value that YAML reads as a mapping or list (`{problem}`) stays text.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        value = error
    takes_text = key in keys and keys[key][1] in (str, str | None)
    if takes_text and not isinstance(value, str | None):
        return text
    if isinstance(value, yaml.YAMLError):
        raise RecipeError(f"command line: --{key}: not YAML: {text!r}") from value
    return value


def checked(where: object, key: str, value: Any, keys: Keys, help_hint: str = "see --help for all keys") -> Any:
    """`value` as the key's type; `where` is the file that messages name.

    YAML reads `1e-6` as text, so text that spells a number is one.

    Raises:
        RecipeError: no such key, or a value of another type.
    """
    if key not in keys:
        near = difflib.get_close_matches(str(key), keys, n=5, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else help_hint
        raise RecipeError(f"{where}: unknown key {key!r} (given {value!r}); {hint}")
    hint = keys[key][1]
    if value is None and not _allows_none(hint):
        raise RecipeError(f"{where}: key {key!r}: a value expected ({spelled(hint)}), got nothing")
    try:
        result = TypeAdapter(hint, config={"arbitrary_types_allowed": True}).validate_python(value)
    except ValidationError as error:
        reasons = "; ".join(dict.fromkeys(detail["msg"] for detail in error.errors()))
        raise RecipeError(f"{where}: key {key!r}: {spelled(hint)} expected, got {value!r} ({reasons})") from error
    if isinstance(value, bool) and not isinstance(result, bool):
        raise RecipeError(f"{where}: key {key!r}: {spelled(hint)} expected, got {value!r}")
    return result


def resolved(path: Path, key: str, value: str) -> str:
    """A file named in a recipe: as seen from here, from the recipe's folder, or from the folder above that."""
    if not value.endswith((".json", ".jsonl", ".yaml")):
        return value  # a hub id
    tried = [Path(value).expanduser(), path.parent / value, path.parent.parent / value]
    for candidate in tried:
        if candidate.is_file():
            return str(candidate)
    raise RecipeError(f"{path}: key {key!r}: file {value!r} not found (looked at {', '.join(map(str, tried))})")


def described(configs: Sequence[type], keys: Keys) -> list[str]:
    """A line for every key of the configs, with its type, default and meaning."""
    lines: list[str] = []
    for config in configs:
        hints = typing.get_type_hints(config)
        lines.append(f"{config.__name__}:")
        for item in dataclasses.fields(config):
            if item.init and keys[item.name][0] is config:
                default = item.default
                if default is dataclasses.MISSING:
                    made = item.default_factory
                    default = "..." if made is dataclasses.MISSING else made()
                meaning = " ".join(str(item.metadata.get("help", "")).split())
                lines.append(f"  {item.name} ({spelled(hints[item.name])}; default {default!r}) {meaning}".rstrip())
        lines.append("")
    return lines


def spelled(hint: Any) -> str:
    """A type as a message names it."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(spelled(arg) for arg in typing.get_args(hint) if arg is not type(None)) or str(hint)
    return getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint).replace("typing.", "")


def _allows_none(hint: Any) -> bool:
    return hint is type(None) or hint is Any or type(None) in typing.get_args(hint)


def _takes_several(hint: Any) -> bool:
    """Whether a list or a mapping fits the type."""
    return hint is Any or any(typing.get_origin(arg) in (list, dict) for arg in (hint, *typing.get_args(hint)))
