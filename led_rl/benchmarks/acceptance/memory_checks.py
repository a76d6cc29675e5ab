"""What LED holds in memory, against what docs/performance.md states."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from led_rl.benchmarks.memory import held_per_sequence
from led_rl.benchmarks.shapes import SHAPES, write_shape
from led_rl.engines.self_check import Check
from led_rl.engines.timed_blocks import BlockEngine

FIXED = 2048  # bytes of tables that do not grow with the sequences
SLACK = 64 << 20  # bytes: what two engines may differ by besides, in the allocator's rounding and graphs


def memory(seconds: float) -> Iterator[Check]:
    """The tables of an engine with LED by formula, and on a GPU all that it allocates beyond one without LED."""
    on_device = torch.cuda.is_available()
    shape, sequences = "vocab-151936" if on_device else "quickstart", 128
    model = write_shape(shape, Path(tempfile.mkdtemp(prefix="model-")), longest=512)
    arguments: dict[str, Any] = {"max_model_len": 512, "max_num_seqs": sequences}
    if on_device:
        arguments |= {"dtype": "bfloat16", "gpu_memory_utilization": 0.05, "kv_cache_memory_bytes": 1 << 30}
    allocated, engines = [], []
    for depth in (0, SHAPES[shape].depth) if on_device else (SHAPES[shape].depth,):
        before = torch.cuda.memory_allocated() if on_device else 0
        engines.append(BlockEngine(model.path, depth, model.random_weights, **arguments))
        allocated.append(torch.cuda.memory_allocated() - before if on_device else 0)
    held, itemsize = engines[-1].added_bytes(), 2 if on_device else 4
    stated = held_per_sequence(SHAPES[shape].depth, model.hidden, itemsize, model.vocab, on_device)
    for name, each in stated.items():
        # tables have a row to spare, which no request takes
        good = each * sequences <= held[name] <= each * (sequences + 1) + FIXED
        text = f"{held[name]:,} bytes for {sequences} sequences; stated {each:,} each, {each * sequences:,}"
        figures = {"held": held[name], "stated": each * sequences, "sequences": sequences}
        if each:
            yield Check(name.replace("_", " "), "ok" if good else "FAIL", text, figures)
    if on_device:
        more, stated_bytes = allocated[1] - allocated[0], sum(stated.values()) * sequences
        good = more <= stated_bytes + SLACK
        text = f"an engine with LED allocates {more / 2**20:+,.1f} MiB beyond one without; stated "
        text += f"{stated_bytes / 2**20:,.1f} MiB, and {SLACK >> 20} MiB are let pass"
        yield Check("allocated", "ok" if good else "FAIL", text, {"more": more, "stated": stated_bytes})
    else:
        yield Check("allocated", "skip", "what an engine allocates in all is counted on a GPU", {})
