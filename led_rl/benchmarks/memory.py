"""By formula: what LED holds for the life of an engine (docs/performance.md states it), and what the loss takes."""

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
        "request_tables": 8 * (2 * depth + 21),
        "workspace": 16 * math.ceil(vocab / TILE) + 17 if on_device else 0,
    }


def held_by_loss(tokens: int, k: int, hidden: int, vocab: int, itemsize: int, trains_head: bool) -> int:
    """Bytes that the loss takes at its peak on a GPU, beside what autograd keeps of the model's body.

    On a CPU TRL's fold of a tile of logits makes copies of it, which its GPU kernel does not.

    Args:
        tokens: completion tokens of a micro-batch.
        k: ids of a support; 0 for TRL's loss over the vocabulary.
        itemsize: bytes of a number in the weights' dtype.
        trains_head: whether the LM head takes a gradient, as with an adapter it does not.
    """
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from led_rl.training.supported_loss import GAUGED, ROWS_AT_ONCE

    gradients = 4 * tokens * hidden  # of the states, float32
    if not k:
        tile = min(tokens, TOKEN_CHUNK_SIZE) * _CHUNKED_LOGPROB_CHUNK_SIZE * itemsize
        return tile + gradients + (4 * vocab * hidden if trains_head else 0)
    gauge = min(tokens, GAUGED) * _CHUNKED_LOGPROB_CHUNK_SIZE * itemsize  # in the forward pass
    rows = min(ROWS_AT_ONCE, tokens * k) * hidden * (itemsize + 4)  # of the head, and their gradients
    head = (4 * min(vocab, tokens * k) + itemsize * vocab) * hidden if trains_head else 0
    return tokens * k * 21 + max(gauge, gradients + rows + head)  # ids, their places, log-probabilities, marks
