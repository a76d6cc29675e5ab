"""What a LED step costs beside a standard one: bytes, operations, launches, and the time a machine needs for them.

A roofline (Williams, Waterman and Patterson, CACM 2009): work takes the longer of its bytes over the memory's
bandwidth and its floating-point operations over the machine's rate. Small steps are bound by neither, but by the fixed
cost of each operator (CPU) or launch (GPU), which is counted too. The model predicts what is ADDED to a standard step,
and what LED's draw from k candidates saves where the engine need not draw those rows itself. For hardware that is not
at hand it also predicts the standard step, from a datasheet: the least that step can take, hence the most that LED can
cost beside it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

import torch

from led_rl.benchmarks.shapes import Shape as BenchmarkShape
from led_rl.terminal.tables import text_table

# Of one step, counted in the code: (states, phases, the final layer, scores and statistics; latent layers). On a CPU
# calls into torch, NumPy and compiled loops (sampler/on_cpu/), else launches, at depth 8 (sampler/on_gpu/).
OPERATORS = {"cpu": (30, 12), "cuda": (17, 3)}
PAIRS_AT_ONCE = 128  # (row, layer) pairs that share one read of the LM head on a GPU
FLOAT = 4  # bytes of a float32 logit


@dataclass(frozen=True)
class Machine:
    """Rates of one machine, as `measure` finds them or a datasheet has them.

    Attributes:
        bandwidth: bytes/s of reading a large tensor and writing another.
        flops: operations/s of a matrix product with the LM head's shape.
        operator: seconds of one operator on a tensor of some hundred numbers, amid others' data in the caches.
        softmax: seconds a logit of a row-wise log-softmax.
        noise: seconds a logit of the engine's own draw: softmax, exponential noise, argmax.
    """

    bandwidth: float
    flops: float
    operator: float
    softmax: float
    noise: float


# NVIDIA's datasheets (SXM; bytes/s, operations/s of dense bfloat16), and an assumed 2 us a launch.
HARDWARE = {
    name: Machine(bandwidth, flops, operator=2e-6, softmax=0.0, noise=0.0)
    for name, bandwidth, flops in (("h200", 4.8e12, 989e12), ("h100", 3.35e12, 989e12), ("a100", 2.039e12, 312e12))
}


@dataclass(frozen=True)
class Shape:
    """One step: `batch` sequences that all think, on a model with `hidden` columns and `vocab` tokens."""

    batch: int
    vocab: int
    hidden: int
    depth: int
    itemsize: int  # bytes of a weight
    explored: float  # fraction of rows that explore
    device: str  # cpu, where LED alone draws LED rows, or cuda, where vLLM draws every row, too


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
    # The final layer's logits are read once, and on a device log-policies written over the engine's own scores.
    final = (1.0 if shape.device == "cpu" else 2.0) * logits * FLOAT
    total_bytes = kept + final
    flops = 0.0
    seconds = total_bytes / machine.bandwidth
    operators, latent_operators = OPERATORS[shape.device]
    seconds += operators * machine.operator + logits * machine.softmax
    if arm == "reference":
        spilled = 5.0 * shape.depth * logits * FLOAT  # logits and softmax of every layer, written and read again
        read = float(layers * head_bytes)
        total_bytes, flops = total_bytes + read + spilled, pairs * head_flops
        seconds += max(read / machine.bandwidth, flops / machine.flops) + spilled / machine.bandwidth
        seconds += latent_operators * machine.operator
    elif pairs:
        # The head is read if any row explores, and again for each further block of pairs.
        any_explores = 1 - (1 - rows / shape.batch) ** shape.batch
        read = head_bytes * max(any_explores, pairs / PAIRS_AT_ONCE)
        total_bytes, flops = total_bytes + read, pairs * head_flops
        seconds += max(read / machine.bandwidth, flops / machine.flops) + pairs * shape.vocab * machine.softmax
        seconds += (any_explores if shape.device == "cpu" else 1.0) * latent_operators * machine.operator
    if shape.device == "cpu":
        seconds -= logits * machine.noise
    return Cost(total_bytes, flops, seconds)


def standard_seconds(config: Mapping[str, Any], batch: int, context: int, itemsize: int, machine: Machine) -> float:
    """The least that a standard decoding step can take: weights and keys and values read once, matrix products.

    Args:
        config: of a Qwen3 (shapes.SHAPES), dense, embeddings tied.
        context: tokens of each sequence so far.
    """
    layers, hidden, head_dim = (config[name] for name in ("num_hidden_layers", "hidden_size", "head_dim"))
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    attention = hidden * head_dim * (2 * heads + 2 * shared)  # query and output, key and value
    weights = layers * (attention + 3 * hidden * config["intermediate_size"]) + config["vocab_size"] * hidden
    cache = 2 * layers * shared * head_dim * itemsize * batch * context  # bytes
    products = max(weights * itemsize / machine.bandwidth, 2.0 * batch * weights / machine.flops)
    return products + cache / machine.bandwidth


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
        small, others = torch.zeros(256, device=device), torch.zeros(1 << 20, device=device)
        logits = torch.randn(max(1, (1 << 18) // vocab), vocab, device=device)

        def operator() -> float:
            """On a CPU between passes over 4 MiB, as a step's other work evicts what an operator left in the caches."""
            if device.type == "cuda":
                return seconds(lambda: [small.add_(1) for _ in range(200)]) / 200
            taken = []
            for _ in range(200):
                others.add_(1)
                start = time.perf_counter()
                small + 1
                taken.append(time.perf_counter() - start)
            return median(taken)

        def draw() -> None:
            torch.softmax(logits, -1).div_(torch.empty_like(logits).exponential_()).argmax(-1)

        return Machine(
            bandwidth=2 * large.numel() / seconds(lambda: copy.copy_(large)),
            flops=2.0 * pairs * vocab * hidden / seconds(lambda: states @ weight.T),
            operator=operator(),
            softmax=seconds(lambda: torch.log_softmax(logits, -1)) / logits.numel(),
            noise=seconds(draw) / logits.numel(),
        )


BATCHES, CONTEXTS = (1, 8, 32, 128, 256), (1024, 4096, 16384)
ARMS = {"top_k_control": "top_k_control", "led_coin": "coin", "led_marginal": "marginal", "led_reference": "reference"}


def grid(shape: BenchmarkShape, explored: float, machine: Machine) -> str:
    """Predicted milliseconds of a standard step and ratios of LED to it, in bfloat16, by batch and context."""
    vocab, hidden, itemsize = shape.config["vocab_size"], shape.config["hidden_size"], torch.bfloat16.itemsize
    lines = []
    for batch, context in product(BATCHES, CONTEXTS):
        step = standard_seconds(shape.config, batch, context, itemsize, machine)
        one = Shape(batch, vocab, hidden, shape.depth, itemsize, explored, "cuda")
        coin, marginal = (step / (step + added_cost(one, machine, arm).seconds) for arm in ("coin", "marginal"))
        lines.append([str(batch), str(context), f"{1e3 * step:.2f}", f"{coin:.3f}", f"{marginal:.3f}"])
    title = f"bfloat16, depth {shape.depth}, {explored:.0%} of the rows explore: predicted throughput / standard"
    return f"{title}\n{text_table(['batch', 'context', 'standard ms/step', 'coin', 'marginal'], lines)}"


def predictions(
    cell: dict[str, Any],
    settings: dict[str, Any],
    model: dict[str, Any],
    machine: Machine,
    dtype: torch.dtype,
    cuda: bool,
) -> list[tuple[str, float, float, float]]:
    """For each arm of a cell: its name, added ms/step as predicted, ms/step as measured, and standard's."""
    standard, rows = cell["arms"]["standard"]["ms_per_step"], []
    for name, arm in ARMS.items():
        if name in cell["arms"]:
            measured = cell["arms"][name]
            shape = Shape(
                cell["batch"],
                model["vocab"],
                model["hidden"],
                settings["depth"],
                dtype.itemsize,
                measured.get("explored") or 0.0,
                "cuda" if cuda else "cpu",
            )
            rows.append((name, 1e3 * added_cost(shape, machine, arm).seconds, measured["ms_per_step"], standard))
    return rows
