"""What a trainer is built with, held against schedules that cannot work with it, before anything is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import IterableDataset
from transformers import PreTrainedModel

from led_rl.training.config import CheckError, LEDGRPOConfig
from led_rl.training.schedules.keys import mixes
from rewards.calling import reward_name

CUSTOM = ("tools", "environment_factory", "rollout_func")
IMAGES = ("image", "images")


def check_schedule_arguments(args: LEDGRPOConfig, given: Mapping[str, Any]) -> None:
    """Raises CheckError (a ValueError) for arguments of a trainer that its schedules cannot work with."""
    custom = next((name for name in CUSTOM if given.get(name)), None)
    if mixes(args) and custom:
        raise CheckError(
            f"led_share with {custom}: turns after the first have no place in a group; allowed: led_share: 1"
        )
    if not args.dynamic_sampling:
        return
    if custom:
        raise CheckError(
            f"dynamic_sampling with {custom}: a replaced group would keep the state of the one before it; allowed: "
            "dynamic_sampling: false"
        )
    dataset = given.get("train_dataset")
    if isinstance(dataset, IterableDataset):
        raise CheckError(
            "dynamic_sampling with an iterable dataset: fresh prompts are drawn by their row, which a stream does not "
            "have; allowed: a datasets.Dataset, or dynamic_sampling: false"
        )
    functions = given.get("reward_funcs") or []
    functions = functions if isinstance(functions, list | tuple) else [functions]
    check_deciding_reward(args, functions)
    columns = getattr(dataset, "column_names", None) or ()
    if column := next((name for name in IMAGES if name in columns), None):
        raise CheckError(f"dynamic_sampling with a column {column!r}: prompts with images are not replaced")


def check_fresh_prompts(args: LEDGRPOConfig, rows: int, prompts: int) -> None:
    """Raises CheckError if a dataset has no prompts beside the ones of a batch, so that none can be fresh."""
    if args.dynamic_sampling and rows <= prompts:
        raise CheckError(
            f"dynamic_sampling: the dataset has {rows} rows, and a batch takes {prompts} prompts: none is left to "
            "replace a group. Give more rows, a smaller batch, or dynamic_sampling: false"
        )


def check_deciding_reward(args: LEDGRPOConfig, functions: Sequence[Any]) -> None:
    """Raises CheckError if `dynamic_sampling_reward` is not one of a run's rewards, as far as these are known."""
    wanted, names = args.dynamic_sampling_reward, [_name_of(function) for function in functions]
    if names and wanted is not None and wanted not in names:
        raise CheckError(f"dynamic_sampling_reward: {wanted!r} is none of the rewards; allowed: {', '.join(names)}")


def _name_of(reward: Any) -> str:
    """The name that TRL gives a reward function or model."""
    if isinstance(reward, str):
        return reward.split("/")[-1]
    if isinstance(reward, PreTrainedModel):
        return str(reward.config._name_or_path).split("/")[-1]
    return reward_name(reward)
