"""Tokens/s of standard decoding, its control and LED over batches and contexts, beside the cost model."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from led_rl.benchmarks.cost_model import Machine, measure, predictions, standard_seconds
from led_rl.benchmarks.engine_benchmark import Cell, arms_of, find_temperature, prompts_of, rounds_of
from led_rl.benchmarks.engine_results import STANDARD, Summary, as_json
from led_rl.benchmarks.engine_settings import Settings
from led_rl.benchmarks.ratios import within
from led_rl.benchmarks.shapes import SHAPES, BenchmarkModel, write_shape
from led_rl.engines.engine import Sampling
from led_rl.engines.self_check import Check
from led_rl.engines.timed_blocks import BlockEngine, BlockError, Timing
from led_rl.evaluation.estimates import mean_interval

ARMS = ("top_k_control", "led_coin", "led_marginal")
GOALS = {"led_coin": 0.99, "led_marginal": 0.97}  # share of standard's throughput, on a GPU, from the sizes below on
GOAL_BATCH, GOAL_CONTEXT = 128, 4096
RESERVE = 15.0  # seconds of the section's time that no further round may use: the results are written in them
READ = 15_000  # prompt tokens/s: a low estimate of a GPU's prefill speed
ROUNDS = 3  # at least, for each size: fewer give no interval
SIZE_SECONDS, GOAL_SECONDS = 15.0, 60.0  # longest measurement of a size, without and with a goal


@dataclass(frozen=True)
class Grid:
    """What is measured, the most telling sizes first."""

    shape: str
    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    new_tokens: int
    rounds: int


GPU_GRID = Grid("qwen3-4b", (128, 256, 32, 1), (1024, 4096, 16384), 40, 6)
CPU_GRID = Grid("quickstart", (128, 32, 1), (32,), 16, 6)


def settings_of(grid: Grid, on_device: bool) -> Settings:
    """The settings of `led-rl benchmark` that measure this grid."""
    shape = SHAPES[grid.shape]
    return Settings(
        model=None,
        shape=grid.shape,
        output=Path(),
        batches=grid.batches,
        contexts=grid.contexts,
        new_tokens=grid.new_tokens,
        rounds=grid.rounds,
        depth=shape.depth,
        k=8,
        vocab=None,
        latent_norm=False,
        arms=ARMS,
        with_plain=False,
        temperature=1.0,
        explored_fraction=shape.explored,
        top_p=1.0,
        top_k=0,
        logprobs=True,
        dtype="bfloat16" if on_device else "float32",
        eager=not on_device,
        threads=None,
        gpu_memory=0.9,
        seed=0,
    )


def throughput(seconds: float) -> Iterator[Check]:
    """A check for each size, as far as the seconds go; sizes for which there is no room or no time are skipped."""
    began, on_device = time.perf_counter(), torch.cuda.is_available()
    grid = GPU_GRID if on_device else CPU_GRID
    settings = settings_of(grid, on_device)
    model = write_shape(grid.shape, Path(tempfile.mkdtemp(prefix="model-")), settings.longest)
    dtype = getattr(torch, settings.dtype)
    machine = measure(torch.device("cuda" if on_device else "cpu"), dtype, model.vocab, model.hidden)
    engine = start_engine(settings, model)
    text = f"{grid.shape}, {settings.dtype}, ready in {engine.start_s:.0f} s; {machine.bandwidth / 1e9:,.0f} GB/s, "
    text += f"{machine.flops / 1e12:.1f} TFLOP/s, {1e6 * machine.operator:.1f} us an operator or launch"
    yield Check("engine", "ok", text, vars(machine) | {"start_s": engine.start_s, "settings": settings.as_json()})
    temperature = None
    for context in grid.contexts:
        for batch in grid.batches:
            name = f"batch {batch}, context {context:,}"
            if lacking := engine.lacks(batch, context + settings.new_tokens):
                yield Check(name, "skip", lacking)
                continue
            reading = batch * context / READ if on_device else 0.0
            if seconds - (time.perf_counter() - began) < RESERVE + reading:
                yield Check(name, "skip", "no time is left")
                continue
            has_goal = on_device and batch >= GOAL_BATCH and context >= GOAL_CONTEXT
            enough = time.perf_counter() + reading + (GOAL_SECONDS if has_goal else SIZE_SECONDS)
            until = min(enough, began + seconds - RESERVE)
            try:
                cell = measure_cell(engine, settings, model, batch, context, temperature, until)
            except BlockError as error:
                yield Check(name, "FAIL", str(error))
                continue
            temperature = cell.temperature
            yield judge_cell(name, cell, settings, model, machine, on_device)


def start_engine(settings: Settings, model: BenchmarkModel) -> BlockEngine:
    """An engine with LED and room for the largest batch and the longest context of the settings."""
    return BlockEngine(model.path, settings.depth, model.random_weights, settings.seed, **settings.engine_arguments())


def measure_cell(
    engine: BlockEngine,
    settings: Settings,
    model: BenchmarkModel,
    batch: int,
    context: int,
    temperature: float | None,
    until: float,
) -> Cell:
    """Rounds until the time is over, ROUNDS at least.

    `temperature`: of the sizes before; None: searched for, so that LED explores the shape's fraction of the rows.
    """
    arms = arms_of(settings)
    prompts = prompts_of(settings.seed, batch, context, model.vocab)

    def block(arm: str, prompts: list[list[int]], sampling: Sampling) -> Timing:
        return engine.run(prompts, arms[arm], sampling, settings.logprobs)

    sampling = Sampling(1.0, settings.top_p, settings.top_k, max_tokens=settings.new_tokens)
    if temperature is None:
        assert settings.explored_fraction is not None
        temperature = find_temperature(settings.explored_fraction, block, prompts, sampling)
    cell = Cell(batch, context, temperature, [])
    for number, blocks in enumerate(
        rounds_of(arms, block, prompts, replace(sampling, temperature=temperature), settings)
    ):
        cell.blocks += blocks
        if number + 1 >= ROUNDS and time.perf_counter() > until:
            break
    return cell


def judge_cell(
    name: str, cell: Cell, settings: Settings, model: BenchmarkModel, machine: Machine, on_device: bool
) -> Check:
    """The figures of one size; they fail where a goal lies above the whole interval of the measured ratio."""
    dtype = getattr(torch, settings.dtype)
    summaries = cell.summaries()
    by_arm: dict[str, Summary] = {summary.arm: summary for summary in summaries}
    as_cell = {"batch": cell.batch, "arms": as_json(summaries)}
    predicted = {
        arm: standard / (standard + added)
        for arm, added, _, standard in predictions(as_cell, settings.as_json(), vars(model), machine, dtype, on_device)
    }
    standard = by_arm[STANDARD]
    config = SHAPES[settings.shape or ""].config
    least = 1e3 * standard_seconds(config, cell.batch, cell.context, dtype.itemsize, machine)
    speeds = {arm: mean_interval([b.tokens_per_s for b in cell.blocks if b.arm == arm]) for arm in by_arm}
    shown = {arm: f"{speed.value:,.0f} [{speed.low:,.0f}, {speed.high:,.0f}]" for arm, speed in speeds.items()}
    parts, status = [f"standard {shown[STANDARD]} tokens/s, {standard.ms_per_step:.2f} ms/step"], "ok"
    if on_device:
        parts[0] += f" (least by the roofline {least:.2f})"
    goals = GOALS if on_device and cell.batch >= GOAL_BATCH and cell.context >= GOAL_CONTEXT else {}
    for arm in ARMS:
        ratios = by_arm[arm].ratios
        assert ratios is not None
        text = f"{arm.removeprefix('led_')} {shown[arm]}, x {within(ratios.mean, ratios.interval)}, "
        text += f"n {ratios.n}, predicted {predicted[arm]:.3f}"
        if explored := by_arm[arm].explored:
            text += f", explored {explored:.0%}"
        if arm in goals:
            high = ratios.interval[1] if ratios.interval else ratios.mean
            text += f", goal {goals[arm]}"
            if high < goals[arm]:
                status, text = "FAIL", f"{text} missed"
        parts.append(text)
    figures = {
        **as_cell,
        "context": cell.context,
        "temperature": cell.temperature,
        "tokens_per_s": {arm: [speed.value, speed.low, speed.high, speed.n] for arm, speed in speeds.items()},
        "predicted": predicted,
        "least_ms_per_step": least,
        "goals": goals,
    }
    return Check(name, status, "; ".join(parts), figures)
