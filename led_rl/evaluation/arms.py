"""Arms: ways of decoding that are compared, each a decoding with its options and the sampling settings around it."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from led_rl.decoding import LARGEST_INTEGER, DecodingError, DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.evaluation.rows import EvaluationError
from led_rl.methods.properties import DECODINGS

SAMPLING_KEYS = ("temperature", "top_p", "top_k", "min_p", "max_tokens")
DECODING_KEYS = tuple(item.name for item in fields(DecodingParams) if item.name != "decoding")
SHORT = {"T": "temperature", "t": "temperature", "d": "depth"}
BASELINES = ("standard", "top_k_control")


@dataclass(frozen=True)
class Arm:
    """One way of decoding in a comparison."""

    decoding: DecodingParams
    sampling: Sampling


def parse_arms(specs: Sequence[str | Mapping[str, Any]], defaults: Mapping[str, Any]) -> dict[str, Arm]:
    """Name -> arm.

    Args:
        specs: each `standard T 0.6 top_p 0.95 top_k 20` (a decoding, then keys and values) or the same as a mapping,
            with `name` if it shall have another. A list of temperatures makes an arm of each.
        defaults: sampling settings, `depth` and `k` of the arms that do not name their own.

    Raises:
        EvaluationError: names the arm, the key and what is allowed.
    """
    arms: dict[str, Arm] = {}
    for spec in specs:
        for given in _each_temperature(_mapping(spec)):
            name, arm = _arm(given, defaults)
            if name in arms:
                raise EvaluationError(f"two arms are called {name!r}; give one of them a `name`")
            arms[name] = arm
    if not arms:
        raise EvaluationError("an evaluation needs at least one arm, `standard`, say")
    return arms


def default_comparisons(arms: Mapping[str, Arm]) -> list[tuple[str, str]]:
    """(arm, baseline): every arm with standard sampling and the top-k control of its temperature."""
    baselines = [name for name, arm in arms.items() if arm.decoding.decoding in BASELINES and not arm.sampling.min_p]
    return [
        (name, baseline)
        for name, arm in arms.items()
        for baseline in baselines
        if name not in baselines and arm.sampling.temperature == arms[baseline].sampling.temperature
    ]


def comparisons_with(baselines: Sequence[str], arms: Mapping[str, Arm]) -> list[tuple[str, str]]:
    """(arm, baseline): every arm with every baseline, each pair once."""
    if unknown := [name for name in baselines if name not in arms]:
        raise EvaluationError(f"baselines: no arm is called {unknown[0]!r}; arms: {', '.join(arms)}")
    rank = {name: place for place, name in enumerate(baselines)}
    return [(a, b) for a in arms for b in baselines if a != b and rank.get(a, -1) < rank[b]]


def sweeps(arms: Mapping[str, Arm]) -> dict[str, dict[str, float]]:
    """Arms that differ in their temperature alone: what they share -> {arm: temperature}; two or more each."""
    groups: dict[tuple[Any, ...], dict[str, float]] = {}
    for name, arm in arms.items():
        sampling = arm.sampling
        key = (arm.decoding, sampling.top_p, sampling.top_k, sampling.min_p, sampling.max_tokens)
        groups.setdefault(key, {})[name] = sampling.temperature
    found: dict[str, dict[str, float]] = {}
    for key, group in groups.items():
        if len(set(group.values())) > 1:
            label, number = key[0].decoding, 2
            while label in found:
                label, number = f"{key[0].decoding} {number}", number + 1
            found[label] = group
    return found


def _mapping(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(spec, Mapping):
        given = {SHORT.get(str(key), str(key).replace("-", "_")): value for key, value in spec.items()}
        return {"decoding": "standard", **given}
    if isinstance(spec, str) and spec.lstrip().startswith("{"):  # a command line's mapping
        given = _value(spec, spec)
        if isinstance(given, Mapping):
            return _mapping(given)
    if not isinstance(spec, str) or not spec.split():
        raise EvaluationError(f"an arm is text (`standard T 0.6 top_p 0.95`) or a mapping; got {spec!r}")
    words = re.sub(r"(?<=[,\[]) +| +(?=\])", "", spec).split()  # a list is one word
    first = SHORT.get(words[0], words[0].replace("-", "_"))
    decoding = "standard" if first in (*SAMPLING_KEYS, *DECODING_KEYS) else words.pop(0)
    if len(words) % 2:
        raise EvaluationError(f"arm {spec!r}: after the decoding come keys and values; {words[-1]!r} has no value")
    values: dict[str, Any] = {}
    for key, value in zip(words[::2], words[1::2], strict=True):
        name = SHORT.get(key, key.replace("-", "_"))
        if name in values:
            raise EvaluationError(f"arm {spec!r}: {name} stands twice")
        values[name] = _value(value, spec)
    return {"decoding": decoding, **values}


def _value(text: str, spec: str) -> Any:
    """A value within an arm's text, as YAML reads it."""
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise EvaluationError(f"arm {spec!r}: {text!r} cannot be read as a value") from error


def _each_temperature(given: dict[str, Any]) -> list[dict[str, Any]]:
    temperatures = given.get("temperature")
    if not isinstance(temperatures, list):
        return [given]
    if not temperatures:
        raise EvaluationError(f"arm {given['decoding']!r}: temperature: expected a number, or a list of some; got []")
    rest = {key: value for key, value in given.items() if key != "temperature"}
    return [
        rest | {"temperature": value} | ({"name": f"{given['name']} T {value}"} if "name" in given else {})
        for value in temperatures
    ]


def _arm(given: dict[str, Any], defaults: Mapping[str, Any]) -> tuple[str, Arm]:
    decoding = given["decoding"]
    if given.get("name", "x") in ("", None):
        raise EvaluationError(f"arm {decoding!r}: its name is empty")
    keys = ("name", "decoding", *SAMPLING_KEYS, *DECODING_KEYS)
    if unknown := [key for key in given if key not in keys]:
        raise EvaluationError(f"arm {decoding!r}: unknown key {unknown[0]!r}; allowed: {', '.join(keys)}")
    options = {key: given[key] for key in DECODING_KEYS if key in given}
    if decoding in ("led", "led_reference"):
        options = {"depth": defaults["depth"], "k": defaults["k"], **options}
    elif decoding == "top_k_control":
        options = {"k": defaults["k"], **options}
    if isinstance(options.get("latent_layers"), list):
        options["latent_layers"] = tuple(options["latent_layers"])
    name = str(given.get("name", " ".join([str(decoding), *(f"{_short(k)} {_written(v)}" for k, v in given.items()
                                                                if k != "decoding")])))  # fmt: skip
    try:
        params = DecodingParams(decoding=decoding, **options)
    except DecodingError as error:
        allowed = f"; decodings: {', '.join(DECODINGS)}" if decoding not in DECODINGS else ""
        raise EvaluationError(f"arm {name!r}: {error}{allowed}") from error
    if params.is_standard and options:
        raise EvaluationError(f"arm {name!r}: standard decoding has no {', '.join(options)}")
    sampling: dict[str, Any] = {key: given.get(key, defaults[key]) for key in SAMPLING_KEYS}
    for key, value in sampling.items():
        check_sampling(f"arm {name!r}: {key}", key, value)
    numbers: dict[str, Any] = {
        key: value if key in ("top_k", "max_tokens") else float(value) for key, value in sampling.items()
    }
    return name, Arm(params, Sampling(**numbers))


def check_sampling(where: str, key: str, value: Any) -> None:
    """Raises EvaluationError if a sampling setting is not what vLLM takes."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits, allowed = {
        "temperature": (0 <= number <= 2, "a number from 0 to 2"),
        "top_p": (0 < number <= 1, "a number above 0 and at most 1"),
        "min_p": (0 <= number <= 1, "a number from 0 to 1"),
        "top_k": (whole and 0 <= number <= LARGEST_INTEGER, "an integer >= 1, or 0 for no limit"),
        "max_tokens": (whole and 1 <= number <= LARGEST_INTEGER, "an integer >= 1"),
    }[key]
    if not fits:
        raise EvaluationError(f"{where}: expected {allowed}, got {value!r}")


def _short(key: str) -> str:
    return "T" if key == "temperature" else key


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
