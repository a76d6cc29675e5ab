"""The kernels of a decoding step, by torch's profiler, and whether LED's draw waits for the device."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from led_rl.benchmarks.acceptance.speed_checks import CPU_GRID, GPU_GRID, settings_of, start_engine
from led_rl.benchmarks.engine_benchmark import arms_of, prompts_of
from led_rl.benchmarks.engine_results import STANDARD
from led_rl.benchmarks.shapes import write_shape
from led_rl.decoding import DecodingParams
from led_rl.engines.agreement import sampling_params
from led_rl.engines.self_check import Check
from led_rl.engines.timed_blocks import BlockEngine
from led_rl.engines.vllm_engine import request_decoder

STEPS = 8  # profiled
TEMPERATURE = 0.3
SHOWN = 6  # kernels of each decoding in the text; all are in the JSON file
CONTEXT = 1024


def kernels(seconds: float) -> Iterator[Check]:
    """What each decoding launches in a step in which every request decodes; LED ignores the think markers.

    On a CPU the operators of torch stand for kernels.
    """
    on_device = torch.cuda.is_available()
    grid, context = (GPU_GRID, CONTEXT) if on_device else (CPU_GRID, 16)
    settings = settings_of(grid, on_device)
    batch = max(settings.batches) if not on_device else 128
    model = write_shape(grid.shape, Path(tempfile.mkdtemp(prefix="model-")), settings.longest)
    engine = start_engine(settings, model)
    prompts = prompts_of(0, batch, context, model.vocab)
    own, standard = led_kernels(), 0.0
    for arm, decoding in arms_of(settings).items():
        rows, wall = profiled(engine, prompts, decoding)
        total = sum(row["us"] for row in rows)
        by_led = [row for row in rows if row["name"].startswith(own)]
        standard = total if arm == STANDARD else standard
        count = sum(row["count"] for row in rows)
        text = f"batch {batch}: {count:.0f} {'launches' if on_device else 'operators'}, "
        text += f"{total:,.0f} us a step ({total - standard:+,.0f})"
        if on_device:
            us, launches = (sum(row[key] for row in by_led) for key in ("us", "count"))
            text += f", LED's draw {us:,.0f} us in {launches:.0f}"
        text += f"; wall {wall:,.0f} us; " + ", ".join(f"{row['name'][:40]} {row['us']:,.0f}" for row in rows[:SHOWN])
        good = bool(rows) and (not on_device or bool(by_led) != (arm == STANDARD))
        figures = {"us": total, "wall_us": wall, "launches": count, "kernels": rows}
        yield Check(arm.removeprefix("led_"), "ok" if good else "FAIL", text, figures)
    if on_device:
        yield without_waiting(engine, prompts, arms_of(settings)["led_coin"])
    else:
        yield Check("waiting", "skip", "whether the draw waits for the device is asked on a GPU")


def led_kernels() -> tuple[str, ...]:
    """Names of the Triton kernels that LED's draw launches."""
    from led_rl.sampler import latent_layers
    from led_rl.sampler.on_gpu import kernels as draw

    names = []
    for module in (draw, latent_layers):
        for value in vars(module).values():
            while type(value).__module__.startswith("triton") and hasattr(value, "fn"):
                value = value.fn  # out of the autotuner, out of the compiler
                if getattr(value, "__module__", None) == module.__name__:
                    names.append(value.__name__)
    return tuple(dict.fromkeys(names))


def start(engine: BlockEngine, prompts: list[list[int]], decoding: DecodingParams) -> Any:
    """vLLM's engine, all of whose requests have been read and decode from now on."""
    core = engine.llm.llm_engine
    params = sampling_params(
        temperature=TEMPERATURE, max_tokens=STEPS + 64, extra_args=decoding.to_extra_args() or None
    )
    for number, prompt in enumerate(prompts):
        core.add_request(f"{decoding}-{time.monotonic_ns()}-{number}", {"prompt_token_ids": prompt}, params)
    for _ in range(60):
        if sum(bool(output.outputs[0].token_ids) for output in core.step()) == len(prompts):
            break
    else:
        raise RuntimeError(f"no step decoded all {len(prompts)} requests")
    for _ in range(3):  # compiles and tunes what is new to these requests
        core.step()
    return core


def profiled(
    engine: BlockEngine, prompts: list[list[int]], decoding: DecodingParams
) -> tuple[list[dict[str, Any]], float]:
    """Name, microseconds and launches a step of each kernel, the longest first; and microseconds of a step's time."""
    on_device = torch.cuda.is_available()
    core = start(engine, prompts, decoding)
    activity = ProfilerActivity.CUDA if on_device else ProfilerActivity.CPU
    with profile(activities=[activity]) as found:
        began = time.perf_counter()
        for _ in range(STEPS):
            core.step()
        if on_device:
            torch.cuda.synchronize()
        wall = 1e6 * (time.perf_counter() - began) / STEPS
    while core.has_unfinished_requests():
        core.step()
    kind = "self_device_time_total" if on_device else "self_cpu_time_total"
    rows = [
        {"name": event.key, "us": getattr(event, kind) / STEPS, "count": event.count / STEPS}
        for event in found.key_averages()
        if getattr(event, kind) > 0
    ]
    return sorted(rows, key=lambda row: -row["us"]), wall


def without_waiting(engine: BlockEngine, prompts: list[list[int]], decoding: DecodingParams) -> Check:
    """Whether LED's draw runs without a synchronisation with the device, which torch reports as an error."""
    decoder: Any = request_decoder(engine.llm)
    core, draw, count = start(engine, prompts, decoding), decoder.draw, 0

    def guarded(*arguments: Any) -> Any:
        nonlocal count
        torch.cuda.set_sync_debug_mode("error")
        try:
            return draw(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            count += 1

    decoder.draw = guarded
    try:
        while core.has_unfinished_requests():
            core.step()
    except RuntimeError as error:
        return Check("waiting", "FAIL", f"LED's draw waits for the device: {error}")
    finally:
        decoder.draw = draw
    return Check("waiting", "ok" if count else "FAIL", f"{count} draws did not wait for the device", {"draws": count})
