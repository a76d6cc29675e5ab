"""Weights with an adapter merged, for the engine, that leave the frozen weights as they are.

TRL adds the adapter to the frozen weights before a sync and subtracts it afterwards. Both results are rounded, so the
frozen weights wander from sync to sync: in bfloat16, over 90 syncs of a simulated adapter, by 21 % of what the adapter
changed (root mean square; three seeds; tests/training/test_merging.py). A checkpoint holds the adapter alone: neither a
run resumed from it, nor the adapter on its base model, would be what was trained.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

PREFIX = "base_model.model."


def adapted_layers(model: Any) -> Mapping[str, Any] | None:
    """By the name of its weight in the base model, each layer that an adapter changes; None if some cannot be merged
    into a copy (quantised weights, biases)."""
    layers = {
        f"{name.removeprefix(PREFIX)}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    plain = all(
        type(layer.get_base_layer().weight) is nn.Parameter and not any(getattr(layer, "lora_bias", {}).values())
        for layer in layers.values()
    )
    return layers if plain else None


def merged_weight(layer: Any) -> Tensor:
    """A copy of a layer's weight with its active adapters merged."""
    weight = layer.get_base_layer().weight
    frozen = weight.data
    try:
        layer.merge(safe_merge=True)  # into a copy, which takes the place of `weight.data`
        return weight.data
    finally:
        weight.data = frozen
        layer.merged_adapters.clear()


@contextmanager
def unmerged(model: Any) -> Iterator[None]:
    """While open, `model.merge_adapter()` and `unmerge_adapter()` do nothing."""
    model.merge_adapter = model.unmerge_adapter = lambda: None
    try:
        yield
    finally:
        del model.merge_adapter, model.unmerge_adapter
