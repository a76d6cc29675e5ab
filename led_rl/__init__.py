"""Latent Exploration Decoding as a rollout sampler for TRL and vLLM. Importing this package is instant."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from led_rl.decoding import DecodingParams as DecodingParams
    from led_rl.led import led_distribution as led_distribution
    from led_rl.training.config import LEDGRPOConfig as LEDGRPOConfig
    from led_rl.training.trainer import LEDGRPOTrainer as LEDGRPOTrainer

# Where each public name has its home; it is imported when it is first asked for.
PUBLIC = {
    "DecodingParams": "led_rl.decoding",
    "LEDGRPOConfig": "led_rl.training.config",
    "LEDGRPOTrainer": "led_rl.training.trainer",
    "led_distribution": "led_rl.led",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'led_rl' has no attribute {name!r}; public names: {', '.join(PUBLIC)}")
    if PUBLIC[name].startswith("led_rl.training"):
        from led_rl.engines.environment import prepare_training

        prepare_training()  # before torch and vLLM are imported
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
