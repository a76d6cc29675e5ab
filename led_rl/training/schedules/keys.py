"""The recipe keys of what changes over a run's steps, and what they must be."""

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from led_rl.decoding import DecodingParams
from led_rl.training.schedules.plan import RolloutPlan, Schedule
from led_rl.training.schedules.points import Points
from led_rl.training.schedules.share import Share, count_of
from led_rl.training.schedules.switch import Switch
from led_rl.training.schedules.values import ScheduledCandidates, ScheduledDepth, ScheduledTemperature

logger = logging.getLogger(__name__)
FORM = "{linear: {STEP: VALUE, ...}} or {steps: {STEP: VALUE, ...}}, from the plain key's value at step 0."


@dataclass
class ScheduleKeys:
    """What changes over a run's steps (docs/schedules.md)."""

    dynamic_sampling: bool = field(
        default=False,
        metadata={"help": "Replace groups of equal rewards, which teach nothing, by groups of fresh prompts (DAPO)."},
    )
    dynamic_sampling_max_rounds: int = field(
        default=10,
        metadata={"help": "How many times fresh prompts are sampled for one batch; then it is trained as is."},
    )
    dynamic_sampling_reward: str | None = field(
        default=None, metadata={"help": "The reward whose values must differ; default: the weighted sum of all."}
    )
    led_from_step: int = field(
        default=0, metadata={"help": "Steps that are done when rollouts begin to explore; standard decoding before."}
    )
    led_to_step: int | None = field(
        default=None, metadata={"help": "Steps that are done when rollouts explore no more; default: never."}
    )
    led_share: float = field(
        default=1.0, metadata={"help": "Share of each group's completions that explore; the others are standard."}
    )
    led_share_schedule: dict[str, Any] | None = field(default=None, metadata={"help": f"led_share over steps: {FORM}"})
    led_depth_schedule: dict[str, Any] | None = field(default=None, metadata={"help": f"led_depth over steps: {FORM}"})
    led_k_schedule: dict[str, Any] | None = field(default=None, metadata={"help": f"led_k over steps: {FORM}"})
    temperature_schedule: dict[str, Any] | None = field(
        default=None, metadata={"help": f"temperature of rollouts and loss over steps: {FORM}"}
    )


def schedules_of(args: Any) -> list[Schedule]:
    """The schedules that a config names, in the order in which they apply; empty if nothing changes over steps."""
    found: list[Schedule] = []
    if args.led_depth_schedule is not None:
        found.append(ScheduledDepth(_depths(args)))
    if args.led_k_schedule is not None:
        found.append(ScheduledCandidates(_candidates(args)))
    if args.temperature_schedule is not None:
        found.append(ScheduledTemperature(_temperatures(args)))
    if mixes(args):
        found.append(Share(_shares(args)))
    if args.led_from_step or args.led_to_step is not None:
        found.append(Switch(args.led_from_step, args.led_to_step))
    return found


def start_plan(args: Any) -> RolloutPlan:
    """The plan of a config's plain keys."""
    decoding = args.decoding_params()
    explored = 0 if decoding.is_standard else args.num_generations
    return RolloutPlan(decoding, args.temperature, args.num_generations, explored)


def largest_decoding(args: Any) -> DecodingParams:
    """The rollouts' decoding at the largest depth and k of the run: what the engine is built for."""
    decoding = args.decoding_params()
    return replace(decoding, depth=int(max(_depths(args).values)), k=int(max(_candidates(args).values)))


def mixes(args: Any) -> bool:
    """Whether a group may hold rows of both kinds."""
    return args.led_share != 1 or args.led_share_schedule is not None


def settle_schedules(args: Any) -> None:
    """Checks the keys of a config whose other keys are settled.

    Raises:
        ValueError: names the key, what was given and what is allowed.
    """
    _check_dynamic_sampling(args)
    standard = args.decoding == "standard"
    changed = {
        "led_from_step": args.led_from_step != 0,
        "led_to_step": args.led_to_step is not None,
        "led_share": args.led_share != 1,
        "led_share_schedule": args.led_share_schedule is not None,
        "led_depth_schedule": args.led_depth_schedule is not None,
        "led_k_schedule": args.led_k_schedule is not None,
    }
    for key, given in changed.items():
        if given and standard:
            raise ValueError(
                f"{key}: {getattr(args, key)!r} with decoding: 'standard' has no effect; set decoding: led"
            )
    _check_switch(args)
    _check_share(args)
    if args.led_depth_schedule is not None:
        if not args.decoding_params().reads_depth:
            raise ValueError(
                f"led_depth_schedule: decoding: {args.decoding!r} reads no layers by led_depth; set decoding: led"
            )
        if args.led_latent_layers is not None:
            raise ValueError("led_depth_schedule with led_latent_layers, which names the layers; leave one of them out")
    for key, points in (("led_depth_schedule", _depths(args)), ("led_k_schedule", _candidates(args))):
        if min(points.values) < 1:
            raise ValueError(f"{key}: every value must be at least 1; got {min(points.values):g}")
    temperatures = _temperatures(args)
    if min(temperatures.values) <= 0:
        raise ValueError(f"temperature_schedule: every value must be more than 0; got {min(temperatures.values):g}")
    if args.temperature_schedule is not None:
        if not args.use_vllm:
            raise ValueError("temperature_schedule needs use_vllm: true")
        if "temperature" in (args.generation_kwargs or {}):
            raise ValueError("temperature_schedule with a temperature in generation_kwargs; leave one of them out")


def _check_dynamic_sampling(args: Any) -> None:
    if args.dynamic_sampling_max_rounds < 1:
        raise ValueError(f"dynamic_sampling_max_rounds must be at least 1; got {args.dynamic_sampling_max_rounds}")
    for key in ("dynamic_sampling_reward", "dynamic_sampling_max_rounds"):
        given = getattr(args, key)
        if given != ScheduleKeys.__dataclass_fields__[key].default and not args.dynamic_sampling:
            raise ValueError(f"{key}: {given!r} has no effect without dynamic_sampling: true")


def _check_switch(args: Any) -> None:
    if args.led_from_step < 0:
        raise ValueError(f"led_from_step must be at least 0; got {args.led_from_step}")
    if args.led_to_step is not None and args.led_to_step <= args.led_from_step:
        raise ValueError(
            f"led_to_step must be more than led_from_step ({args.led_from_step}), or no rollout would explore; got "
            f"{args.led_to_step}"
        )
    if 0 < args.max_steps <= args.led_from_step:
        logger.warning(f"led_from_step: {args.led_from_step} with max_steps: {args.max_steps}: no rollout will explore")


def _check_share(args: Any) -> None:
    generations, shares = args.num_generations, _shares(args)
    if min(shares.values) < 0 or max(shares.values) > 1:
        key = "led_share" if args.led_share_schedule is None else "led_share_schedule"
        raise ValueError(f"{key} must lie between 0 and 1; got {shares.values}")
    if max(count_of(share, generations) for share in shares.values) == 0 and args.led_share_schedule is not None:
        raise ValueError(
            f"led_share_schedule: {shares.values} of num_generations: {generations} are no completions, so that no "
            "rollout would explore"
        )
    explored = count_of(args.led_share, generations)
    if args.led_share_schedule is None and mixes(args) and not 0 < explored < generations:
        raise ValueError(
            f"led_share: {args.led_share:g} of num_generations: {generations} is {explored} completions, so that no "
            f"group is mixed; allowed: {1 / generations:.3g} to {1 - 1 / generations:.3g}, or 1"
        )


def _depths(args: Any) -> Points:
    return Points.read("led_depth_schedule", args.led_depth_schedule, args.led_depth, whole=True)


def _candidates(args: Any) -> Points:
    return Points.read("led_k_schedule", args.led_k_schedule, args.decoding_params().k, whole=True)


def _temperatures(args: Any) -> Points:
    return Points.read("temperature_schedule", args.temperature_schedule, args.temperature)


def _shares(args: Any) -> Points:
    return Points.read("led_share_schedule", args.led_share_schedule, args.led_share)
