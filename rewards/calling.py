"""Calling a reward so that what is wrong with it is one error that names the reward and the row.

TRL, `led-rl evaluate` and scripts call rewards of a user's own, which may be asynchronous, may raise, and may return
anything. `call_reward` is that call; `CheckedReward` is a reward that TRL calls in its usual way.
"""

import asyncio
import functools
import inspect
import math
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rewards.grader.workers.process import PoolError

CORE_COLUMNS = frozenset({"step", "prompt", "completion", "advantage"})  # of TRL's table of completions
CORE_METRICS = frozenset(
    {"loss", "reward", "reward_std", "frac_reward_zero_std", "grad_norm", "learning_rate", "epoch", "entropy", "kl"}
    | {"num_tokens", "step_time", "step", "total_flos", "train_loss", "aux_loss", "eval_loss"}
)
CORE_GROUPS = (
    *("rewards/", "completions/", "clip_ratio/", "sampling/", "rollout/", "time/", "led/", "correction/"),
    *("profiling/", "tools/", "train/", "eval/", "eval_"),
)
ROWS_TRIED = 256  # of a batch that fails, one by one, to find the row


class RewardError(ValueError):
    """A reward that does not exist, options that it does not take, or a call of it that failed."""


def reward_name(reward: Any) -> str:
    """The name of a function, of a `functools.partial` of one, or of an instance (`__name__`, or its class's)."""
    while isinstance(reward, functools.partial) and not hasattr(reward, "__name__"):
        reward = reward.func
    return getattr(reward, "__name__", type(reward).__name__)


def is_async(reward: Any) -> bool:
    """Whether calling `reward` gives a coroutine, as TRL tells it."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(getattr(reward, "__call__", None))  # noqa: B004


def call_reward(
    reward: Callable[..., Any], completions: Sequence[Any], row_names: Sequence[str] | None = None, **columns: Any
) -> list[float | None]:
    """One finite reward for each completion; None for None and NaN. An asynchronous reward is awaited.

    Args:
        reward: of TRL's signature; may be asynchronous.
        completions: as TRL passes them.
        row_names: what errors call the rows; "row 1" and so on by default.
        columns: the other columns, `prompts` and `completion_ids` among them.

    Raises RewardError: the reward raises, or returns other than one finite number or None for each completion. A
    PoolError passes as it is.
    """
    name = reward_name(reward)
    try:
        returned = reward(completions=completions, **columns)
        if inspect.isawaitable(returned):
            returned = asyncio.run(_awaited(returned))
    except (RewardError, PoolError):  # without worker processes, no row is to blame
        raise
    except Exception as error:  # whatever a reward's own code may raise
        raise _failure(reward, error, completions, row_names, columns) from error
    return usable_rewards(name, returned, len(completions), row_names)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def usable_rewards(name: str, returned: Any, count: int, row_names: Sequence[str] | None = None) -> list[float | None]:
    """What a reward returned, as `count` finite numbers or None. Raises RewardError that names reward and row."""
    if isinstance(returned, str | bytes | dict) or not hasattr(returned, "__iter__"):
        raise RewardError(
            f"reward {name!r} returned {returned!r:.80} ({type(returned).__name__}); allowed: a list with one number "
            f"or None for each of the {count} completions"
        )
    values = list(returned)
    if len(values) != count:
        raise RewardError(f"reward {name!r} returned {len(values)} values for {count} completions")
    return [_usable(name, value, _row_name(row, row_names)) for row, value in enumerate(values)]


def _usable(name: str, value: Any, row: str) -> float | None:
    if value is None:
        return None
    try:
        number = math.inf if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several values
        number = math.inf
    if math.isinf(number):
        raise RewardError(
            f"reward {name!r} returned {value!r:.80} for {row}; allowed: a finite number, or None (NaN, too) where "
            "there is nothing to judge"
        )
    return None if math.isnan(number) else number


def _row_name(row: int, row_names: Sequence[str] | None) -> str:
    return row_names[row] if row_names else f"row {row + 1}"


def _failure(
    reward: Callable[..., Any],
    error: Exception,
    completions: Sequence[Any],
    row_names: Sequence[str] | None,
    columns: dict[str, Any],
) -> RewardError:
    """The error of a call that raised: reward, place in its code, and the first row that fails by itself."""
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if frame.filename != __file__), None)
    at = f" ({place.filename.rpartition('/')[2]}, line {place.lineno})" if place else ""
    row = None if is_async(reward) else _failing_row(reward, completions, columns)
    where = "" if row is None else f" for {_row_name(row, row_names)}"
    listed = ", ".join(name for name in columns if not name.startswith(("log_", "trainer_"))) or "none"
    return RewardError(
        f"reward {reward_name(reward)!r} failed{where}: {type(error).__name__}: {error}{at}; columns: {listed}"
    )


def _failing_row(reward: Callable[..., Any], completions: Sequence[Any], columns: dict[str, Any]) -> int | None:
    """The first row for which the reward raises when it is called with that row alone."""
    quiet = {"log_extra": _ignore, "log_metric": _ignore}
    for row in range(min(len(completions), ROWS_TRIED)) if len(completions) > 1 else ():
        alone = {
            name: [value[row]] if isinstance(value, list) and len(value) == len(completions) else value
            for name, value in columns.items()
        }
        try:
            reward(completions=[completions[row]], **{name: quiet.get(name, value) for name, value in alone.items()})
        except Exception:
            return row
    return 0 if len(completions) == 1 else None


def _ignore(*arguments: Any) -> None:
    """Logs nothing."""


class CheckedReward:
    """A reward as TRL calls it, by `call_reward`; what it logs cannot replace TRL's own columns and metrics.

    Attributes:
        function: the reward itself.
    """

    def __init__(self, function: Callable[..., Any], owners: dict[str, str] | None = None) -> None:
        self.function = function
        self.__name__ = reward_name(function)
        self._owners = {} if owners is None else owners  # column of the table of completions -> reward that logs it

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return call_reward(self.function, completions, **self._guarded(columns, len(completions)))

    def _guarded(self, columns: dict[str, Any], count: int) -> dict[str, Any]:
        guards = {}
        if log_extra := columns.get("log_extra"):
            guards["log_extra"] = functools.partial(self._log_extra, log_extra, count)
        if log_metric := columns.get("log_metric"):
            guards["log_metric"] = functools.partial(self._log_metric, log_metric)
        return {**columns, **guards}

    def _log_extra(self, log_extra: Callable[..., None], count: int, column: str, values: Any) -> None:
        if column in CORE_COLUMNS:
            raise RewardError(
                f"reward {self.__name__!r} logs a column {column!r}, which the table of completions has already; "
                "choose another name"
            )
        if isinstance(values, str | dict) or not hasattr(values, "__len__") or len(values) != count:
            raise RewardError(f"reward {self.__name__!r} logs column {column!r} without one value for each of the "
                              f"{count} completions")  # fmt: skip
        if self._owners.setdefault(column, self.__name__) != self.__name__:
            column = f"{self.__name__}.{column}"  # another reward logs a column of this name
        log_extra(column, list(values))

    def _log_metric(self, log_metric: Callable[..., None], name: str, value: Any) -> None:
        if name in CORE_METRICS or name.startswith(CORE_GROUPS):
            raise RewardError(
                f"reward {self.__name__!r} logs a metric {name!r}, which is one of the trainer's; choose another name, "
                f"such as '{self.__name__}/...'"
            )
        log_metric(name, float(value))


class AsyncCheckedReward(CheckedReward):
    """The same for an asynchronous reward, which TRL awaits beside the others."""

    async def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:  # type: ignore[override]
        columns = self._guarded(columns, len(completions))
        try:
            returned: Coroutine[Any, Any, Any] = self.function(completions=completions, **columns)
            values = await returned
        except (RewardError, PoolError):
            raise
        except Exception as error:  # whatever a reward's own code may raise
            raise _failure(self.function, error, completions, None, columns) from error
        return usable_rewards(self.__name__, values, len(completions))


def checked_reward(reward: Any, owners: dict[str, str] | None = None) -> Any:
    """`reward` as a CheckedReward; a reward model, a hub id, or what is checked already stays what it is."""
    plain = inspect.isfunction(reward) or inspect.ismethod(reward) or isinstance(reward, functools.partial)
    if isinstance(reward, CheckedReward):
        reward._owners = reward._owners if owners is None else owners
        return reward
    if not callable(reward) or (not plain and hasattr(reward, "forward")):  # an nn.Module
        return reward
    return (AsyncCheckedReward if is_async(reward) else CheckedReward)(reward, owners)


def checked_rewards(rewards: Any) -> Any:
    """The `reward_funcs` of a trainer, each one checked; two that log the same column do not mix their values."""
    owners: dict[str, str] = {}
    if isinstance(rewards, list | tuple):
        return [checked_reward(reward, owners) for reward in rewards]
    return checked_reward(rewards, owners)
