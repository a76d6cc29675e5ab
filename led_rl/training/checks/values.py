"""Values of the training config that TRL, transformers or vLLM would refuse late, or take in silence."""

import math
from collections.abc import Mapping
from typing import Any

from led_rl.decoding import PREFIX
from led_rl.recipe import checked, keys_of

IMPORTANCE_MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
CHOICES: dict[str, tuple[str, ...]] = {  # TRL finds out within the first step
    "vllm_importance_sampling_mode": IMPORTANCE_MODES,
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("auto", "vllm", "transformers", "terratorch"),
}
ANY = math.inf
# key: (least, most, whether the least itself is allowed)
RANGES: dict[str, tuple[float, float, bool]] = {
    "temperature": (0.0, ANY, False),
    "top_p": (0.0, 1.0, False),
    "min_p": (0.0, 1.0, True),
    "top_k": (-1, ANY, True),
    "repetition_penalty": (0.0, ANY, False),
    "max_completion_length": (1, ANY, True),
    "vllm_max_model_length": (2, ANY, True),
    "vllm_gpu_memory_utilization": (0.0, 1.0, False),
    "vllm_tensor_parallel_size": (1, ANY, True),
    "vllm_server_timeout": (0.0, ANY, False),
    "vllm_server_request_timeout": (0.0, ANY, False),
    "watchdog_factor": (0.0, ANY, True),
    "watchdog_floor": (0.0, ANY, True),
    "vllm_server_port": (1, 65535, True),
    "vllm_group_port": (1, 65535, True),
    "vllm_importance_sampling_clip_min": (0.0, ANY, True),
    "vllm_importance_sampling_clip_max": (0.0, ANY, False),
    "off_policy_mask_threshold": (0.0, ANY, True),
    "lora_r": (1, ANY, True),
    "lora_alpha": (0.0, ANY, False),
    "lora_dropout": (0.0, 1.0, True),
    "learning_rate": (0.0, ANY, True),
    "weight_decay": (0.0, ANY, True),
    "adam_beta1": (0.0, 1.0, True),
    "adam_beta2": (0.0, 1.0, True),
    "adam_epsilon": (0.0, ANY, False),
    "max_grad_norm": (0.0, ANY, True),
    "warmup_steps": (0.0, ANY, True),
    "num_train_epochs": (0.0, ANY, False),
    "per_device_train_batch_size": (1, ANY, True),
    "per_device_eval_batch_size": (1, ANY, True),
    "gradient_accumulation_steps": (1, ANY, True),
    "num_generations": (2, ANY, True),
    "num_generations_eval": (1, ANY, True),
    "num_iterations": (1, ANY, True),
    "steps_per_generation": (1, ANY, True),
    "generation_batch_size": (1, ANY, True),
    "save_total_limit": (0, ANY, True),
    "epsilon": (0.0, ANY, True),
    "epsilon_high": (0.0, ANY, True),
    "delta": (0.0, ANY, False),
    "beta": (0.0, ANY, True),
    "top_entropy_quantile": (0.0, 1.0, True),
    "seed": (0, 2**32 - 1, True),
}
OWN = {  # keys of generation_kwargs that the trainer sets, and why they are not for users
    "seed": "with a seed of its own, every completion of a group is the same and its loss 0; set `seed`",
    "n": "the trainer asks for num_generations completions itself",
    "logprobs": "the trainer reads the sampled token's log-probability and would take another token's",
    "prompt_logprobs": "the trainer reads the completion's log-probabilities alone",
    "max_tokens": "set max_completion_length",
    "output_kind": "the trainer reads whole completions",
    "detokenize": "the trainer reads token ids",
}


def check_choices(values: Mapping[str, Any]) -> None:
    """Raises ValueError naming the key, what was given and what is allowed, for the first value that is none of it."""
    for key, allowed in CHOICES.items():
        value = values.get(key)
        if value is not None and value not in allowed:
            raise ValueError(f"{key} must be one of {', '.join(allowed)}; got {value!r}")


def check_ranges(values: Mapping[str, Any]) -> None:
    """Raises ValueError naming the key, what was given and what is allowed, for the first number out of range."""
    for key, (least, most, with_least) in RANGES.items():
        value = values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        inside = (value >= least if with_least else value > least) and value <= most and is_finite(value)
        if not inside:
            bounds = f"{'at least' if with_least else 'more than'} {least:g}"
            bounds += "" if most == ANY else f" and at most {most:.10g}"
            reason = "; the policy at temperature 0 has no gradient" if key == "temperature" and value == 0 else ""
            raise ValueError(f"{key} must be {bounds}; got {value!r}{reason}")


def is_finite(value: int | float) -> bool:
    """Whether a number is one that a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def settle_types(args: Any, *configs: type) -> None:
    """Gives a config's keys of these dataclasses the types that a recipe's have; points of schedules check their own.

    Raises:
        RecipeError: names the key, what was given and what is allowed.
    """
    keys = keys_of(*configs)
    for key in keys:
        if not key.endswith("_schedule"):
            setattr(args, key, checked(type(args).__name__, key, getattr(args, key), keys))


def check_generation_kwargs(given: Mapping[str, Any] | None) -> None:
    """Raises ValueError for arguments of requests that the trainer needs to set itself."""
    for key, reason in OWN.items():
        if (given or {}).get(key) is not None:
            raise ValueError(f"generation_kwargs: {key!r} (given {given[key]!r}): {reason}")  # type: ignore[index]
    for key in ("extra_args", "vllm_xargs"):
        stray = [name for name in (given or {}).get(key) or {} if str(name).startswith(PREFIX)]
        if stray:
            raise ValueError(
                f"generation_kwargs: {key}: {', '.join(map(repr, stray))} would override the run's own decoding; set "
                "the keys of the config: decoding, led_depth, led_k ..."
            )
