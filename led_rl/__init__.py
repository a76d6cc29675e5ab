"""Latent Exploration Decoding as a rollout sampler for RL post-training with TRL and vLLM.

The names below are imported when they are first used, so that `import led_rl` imports neither torch, vLLM nor TRL.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from led_rl.decoding import DecodingParams
    from led_rl.led import led_distribution
    from led_rl.training.config import LEDGRPOConfig
    from led_rl.training.trainer import LEDGRPOTrainer

__version__ = "0.1.0"
__all__ = ["DecodingParams", "LEDGRPOConfig", "LEDGRPOTrainer", "led_distribution"]

HOMES = {
    "DecodingParams": "led_rl.decoding",
    "LEDGRPOConfig": "led_rl.training.config",
    "LEDGRPOTrainer": "led_rl.training.trainer",
    "led_distribution": "led_rl.led",
}


def __getattr__(name: str) -> Any:
    """Imports a name of the public face; before the training ones, sets what vLLM must find on a machine without GPUs.

    Raises:
        AttributeError: led_rl has no such name.
    """
    if name not in HOMES:
        raise AttributeError(f"module 'led_rl' has no attribute {name!r}")
    if HOMES[name].startswith("led_rl.training."):
        from led_rl.engines.environment import prepare_environment

        prepare_environment()
    value = getattr(importlib.import_module(HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
