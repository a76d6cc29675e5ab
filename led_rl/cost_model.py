"""What a LED step costs beside a standard one: bytes, operations, launches, and the time a machine needs for them.

A roofline (Williams, Waterman and Patterson, CACM 2009): work takes the longer of its bytes over the memory's
bandwidth and its floating-point operations over the machine's rate. Small steps are bound by neither, but by the fixed
cost of each operator (CPU) or launch (GPU), which is counted too. The model predicts what is ADDED to a standard step,
and what LED's draw from k candidates saves where the engine need not draw those rows itself.
"""

import time
from dataclasses import dataclass

import torch

# Operators of one step, counted in the code: following phases, the uniform numbers, top-k and log-softmax, the draw,
# the statistics (`OPERATORS`); reading latent layers and combining them (`LATENT_OPERATORS`).
OPERATORS, LATENT_OPERATORS = 110, 60
PAIRS_AT_ONCE = 128  # (row, layer) pairs that share one read of the LM head on a GPU
FLOAT = 4  # bytes of a float32 logit


@dataclass(frozen=True)
class Machine:
    """Rates of one machine, as `measure` finds them.

    Attributes:
        bandwidth: bytes/s of reading a large tensor and writing another.
        flops: operations/s of a matrix product with the LM head's shape.
        operator: seconds of one operator on a tensor of some hundred numbers.
        softmax: seconds a logit of a row-wise log-softmax.
        noise: seconds a logit of the engine's own draw: softmax, exponential noise, argmax.
    """

    bandwidth: float
    flops: float
    operator: float
    softmax: float
    noise: float


@dataclass(frozen=True)
class Shape:
    """One step: `batch` sequences that all think, on a model with `hidden` columns and `vocab` tokens."""

    batch: int
    vocab: int
    hidden: int
    depth: int
    itemsize: int  # bytes of a weight
    explored: float  # fraction of rows that explore
    own_draw_saved: bool  # the engine leaves our rows' draw to us: on CPU


@dataclass(frozen=True)
class Cost:
    """Bytes, operations and seconds that a decoding adds to a standard step; negative seconds are saved."""

    bytes: float
    flops: float
    seconds: float


def added_cost(shape: Shape, machine: Machine, arm: str) -> Cost:
    """Cost of `arm`: `top_k_control`, `coin`, `marginal` or `reference`."""
    logits = shape.batch * shape.vocab
    layers = shape.depth - 1
    head_bytes, head_flops = shape.vocab * shape.hidden * shape.itemsize, 2.0 * shape.vocab * shape.hidden
    rows = {"top_k_control": 0.0, "coin": shape.explored * shape.batch}.get(arm, float(shape.batch))
    pairs = rows * layers
    kept = 3.0 * shape.batch * layers * shape.hidden * shape.itemsize  # two streams read, their sum written
    top_k = float(logits * FLOAT)
    total_bytes = kept + top_k
    flops = 0.0
    seconds = total_bytes / machine.bandwidth
    seconds += OPERATORS * machine.operator + logits * machine.softmax
    if arm == "reference":
        spilled = 5.0 * shape.depth * logits * FLOAT  # logits and softmax of every layer, written and read again
        read = float(layers * head_bytes)
        total_bytes, flops = total_bytes + read + spilled, pairs * head_flops
        seconds += max(read / machine.bandwidth, flops / machine.flops) + spilled / machine.bandwidth
        seconds += LATENT_OPERATORS * machine.operator
    elif pairs:
        # The head is read if any row explores, and again for each further block of pairs.
        any_explores = 1 - (1 - rows / shape.batch) ** shape.batch
        read = head_bytes * max(any_explores, pairs / PAIRS_AT_ONCE)
        total_bytes, flops = total_bytes + read, pairs * head_flops
        seconds += max(read / machine.bandwidth, flops / machine.flops) + pairs * shape.vocab * machine.softmax
        seconds += any_explores * LATENT_OPERATORS * machine.operator
    if shape.own_draw_saved:
        seconds -= logits * machine.noise
    return Cost(total_bytes, flops, seconds)


def measure(device: torch.device, dtype: torch.dtype, vocab: int, hidden: int, pairs: int = 16) -> Machine:
    """Rates of this machine at the shapes that matter: a second or two."""

    def seconds(work, repeats: int = 5) -> float:
        work()
        best = float("inf")
        for _ in range(repeats):
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        return best

    with torch.inference_mode():
        large = torch.zeros(1 << 26, dtype=torch.uint8, device=device)
        copy = torch.empty_like(large)
        weight, states = (torch.randn(n, hidden, dtype=dtype, device=device) for n in (vocab, pairs))
        small = torch.zeros(256, device=device)
        logits = torch.randn(max(1, (1 << 18) // vocab), vocab, device=device)

        def operators() -> None:
            for _ in range(200):
                small + 1

        def draw() -> None:
            torch.softmax(logits, -1).div_(torch.empty_like(logits).exponential_()).argmax(-1)

        return Machine(
            bandwidth=2 * large.numel() / seconds(lambda: copy.copy_(large)),
            flops=2.0 * pairs * vocab * hidden / seconds(lambda: states @ weight.T),
            operator=seconds(operators) / 200,
            softmax=seconds(lambda: torch.log_softmax(logits, -1)) / logits.numel(),
            noise=seconds(draw) / logits.numel(),
        )
