"""What `accelerate launch --config_file ...` says about the distribution of the run, as keys of the recipe."""

import os
from typing import Any


def settings_of_the_launcher(values: dict[str, Any]) -> dict[str, Any]:
    """Keys that take the place of the recipe's: one that starts processes for FSDP must not get DeepSpeed.

    Args:
        values: the recipe's keys; `deepspeed` is read for the notice that it is replaced.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        replaced: dict[str, Any] = {"deepspeed": None}
    else:
        file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        replaced = {} if file == "none" else {"deepspeed": file}
    given = values.get("deepspeed")
    if replaced and given is not None and given != replaced["deepspeed"] and os.environ.get("RANK", "0") == "0":
        print(f"accelerate's configuration takes the place of `deepspeed: {given}`: {replaced['deepspeed'] or 'FSDP'}")
    return replaced
