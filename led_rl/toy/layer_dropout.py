"""Layer dropout during training, so that a model's late layers refine a prediction instead of making it.

An update leaves out layer l of L (l = 1 ... L) with probability rate · (l - 1) / (L - 1): the first never, the last at
the full rate. It is LayerDrop (Fan et al., 2020, arXiv 1909.11556) with rates that rise with depth as in LayerSkip
(Elhoushi et al., 2024, arXiv 2404.16710), without LayerSkip's loss at early exits: no layer but the last is asked for a
prediction.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def dropping_layers(model: Any, rate: float, seed: str) -> Iterator[None]:
    """Within the block `model` (a causal LM of transformers) lacks the layers that `seed` leaves out.

    For passes without a cache of keys and values; a rate of 0 changes nothing.
    """
    layers = model.model.layers
    rng = random.Random(f"layers/{seed}")
    last = max(1, len(layers) - 1)
    model.model.layers = nn.ModuleList(layer for i, layer in enumerate(layers) if rng.random() >= rate * i / last)
    depth, model.config.num_hidden_layers = model.config.num_hidden_layers, len(model.model.layers)
    try:
        yield
    finally:
        model.model.layers, model.config.num_hidden_layers = layers, depth
