"""What LED holds for the life of an engine, by formula; docs/performance.md states it."""

import math

TILE = 2048  # tokens of the vocabulary that one program of the device's draw scans (sampler/on_gpu/kernels.py)


def held_per_sequence(depth: int, hidden: int, itemsize: int, vocab: int, on_device: bool) -> dict[str, int]:
    """Bytes for each sequence that an engine may decode at a time, by what they hold.

    Args:
        depth: largest depth that requests may ask for.
        itemsize: bytes of a number in the model's dtype.
    """
    return {
        "latent_states": (depth - 1) * hidden * itemsize + 24,
        "request_tables": 8 * (2 * depth + 16),
        "workspace": 16 * math.ceil(vocab / TILE) + 17 if on_device else 0,
    }
