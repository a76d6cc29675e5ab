"""Rewards by name: the built-in ones, or a dotted path to a user's own function."""

import contextlib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from rewards.calling import RewardError, checked_reward, reward_name

BUILT_IN = {
    "math_answer": "rewards.math_answer:MathAnswer",
    "think_format": "rewards.think_format:ThinkFormat",
    "overlong": "rewards.overlong:Overlong",
    "repetition": "rewards.repetition:Repetition",
    "choice_letter": "rewards.choice_letter:ChoiceLetter",
    "countdown": "rewards.countdown:countdown",
    "code_tests": "rewards.code_tests:CodeTests",
}


class RewardFunction(Protocol):
    """What TRL calls: one reward per completion; None where there is nothing to judge (TRL masks it)."""

    __name__: str

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]: ...


def load_reward(name: str, **options: Any) -> RewardFunction:
    """The reward called `name`, with its options; picklable, and `__name__` is the reward's name.

    `name` is one of BUILT_IN, or `package.module:function` (also `package.module.function`) of the user's own: a class
    is constructed with the options, a function or a `functools.partial` gets them as keyword arguments of every call.
    A user's own reward comes back checked (rewards.calling). Rewards that need worker processes start them here, so a
    pool that cannot start is an error now.

    Raises RewardError for an unknown name, an unknown option or a refused option value.
    """
    target = _import(name)
    if inspect.isclass(target):
        _check_options(name, target, options, list(_signature(name, target).parameters))
        try:
            reward = target(**options)
        except Exception as error:  # whatever a reward's own code may raise
            raise RewardError(f"reward {name!r}: {error}") from error
        if not callable(reward):
            raise RewardError(f"reward {name!r} is a class whose instances cannot be called")
    else:
        keyword_only = [
            parameter.name
            for parameter in _signature(name, target).parameters.values()
            if (parameter.default is not parameter.empty or parameter.kind is parameter.KEYWORD_ONLY)
            and parameter.name not in ("log_extra", "log_metric")
        ]
        _check_options(name, target, options, keyword_only)
        reward = _with_options(target, options) if options else target
    loaded: Any = reward if name in BUILT_IN else checked_reward(reward)
    start = getattr(reward, "start", None)
    if callable(start):
        start()
    return loaded


def _with_options(function: Callable, options: dict[str, Any]) -> Any:
    partial: Any = functools.partial(function, **options)
    partial.__name__ = reward_name(function)
    return partial


def _signature(name: str, target: Callable) -> inspect.Signature:
    try:
        return inspect.signature(target)
    except (TypeError, ValueError) as error:
        raise RewardError(f"reward {name!r} cannot be called as a reward: {error}") from error


def _check_options(name: str, target: Callable, options: dict[str, Any], allowed: list[str]) -> None:
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        listed = ", ".join(allowed) if allowed else "none"
        raise RewardError(f"reward {name!r} has no option {', '.join(map(repr, unknown))}; its options: {listed}")


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """A user's own module beside the recipe can be imported, also where a script or `led-rl` was started."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _import(name: str) -> Any:
    if not isinstance(name, str):
        raise RewardError(f"a reward is named by a string, got {name!r}")
    path = BUILT_IN.get(name, name)
    module_name, separator, attribute = path.partition(":")
    if not separator:
        module_name, separator, attribute = path.rpartition(".")
    if not (module_name and attribute):
        raise RewardError(
            f"unknown reward {name!r}: allowed are {', '.join(BUILT_IN)}, or a dotted path 'package.module:function'"
        )
    try:
        with _current_folder_importable():
            target = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise RewardError(
            f"reward {name!r}: no module {error.name!r}; allowed are {', '.join(BUILT_IN)}, or a dotted path "
            "'package.module:function' that can be imported"
        ) from error
    except AttributeError as error:
        raise RewardError(f"reward {name!r}: module {module_name!r} has no {attribute!r}") from error
    if not callable(target):
        raise RewardError(f"reward {name!r} is a {type(target).__name__}, not a function")
    return target
