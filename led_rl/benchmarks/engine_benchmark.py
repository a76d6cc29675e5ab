"""How `led-rl benchmark` measures what LED costs.

Standard decoding, a top-k control, LED and LED as its reference code does it are run side by side.
One engine runs blocks of requests: all of one length, the same prompts of random tokens for every arm, no end of
sequence. Blocks of standard decoding alternate with the others (engine_results.py). LED and its control ignore the
think markers (led_think_only=0), so that every row of every step may explore: the most that LED can cost. Throughput is
that of the steps that decode the whole batch; prefill, the same for every arm, is in the blocks' wall time alone.
"""

import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from led_rl.benchmarks.engine_results import STANDARD, Block, Summary, as_json, order_of_round, summarise, table
from led_rl.benchmarks.engine_settings import BASELINE_ARMS, BenchmarkError, Settings
from led_rl.benchmarks.machine import machine, versions
from led_rl.benchmarks.shapes import BenchmarkModel, read_checkpoint, write_shape
from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.methods.properties import PROPERTIES
from led_rl.sampler.capture_options import admitting
from led_rl.terminal.progress_bar import ProgressBar, progress_bar

if TYPE_CHECKING:
    from led_rl.engines.timed_blocks import BlockEngine, Timing

PLAIN = "plain"
PILOT_BLOCKS = 8
COLDEST, HOTTEST = 0.02, 2.0  # temperatures (vLLM takes no hotter) among which the explored fraction is searched
RESULTS, FIGURE = "benchmark.json", "benchmark.png"


@dataclass
class Cell:
    """The blocks of one batch size and context length."""

    batch: int
    context: int
    temperature: float
    blocks: list[Block]

    def summaries(self) -> list[Summary]:
        return summarise(self.blocks)


@dataclass
class Report:
    about: dict[str, Any]
    cells: list[Cell]
    complete: bool = False

    def write(self, folder: Path) -> None:
        """Writes benchmark.json whole or not at all."""
        content = {
            **self.about,
            "complete": self.complete,
            "cells": [
                {
                    "batch": cell.batch,
                    "context": cell.context,
                    "temperature": cell.temperature,
                    "arms": as_json(cell.summaries()),
                    "blocks": [asdict(block) for block in cell.blocks],
                }
                for cell in self.cells
                if cell.blocks
            ],
        }
        partial = folder / f"{RESULTS}.part"
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(folder / RESULTS)


def benchmark(settings: Settings) -> Report:
    """Measures, prints and writes; after an interrupt, the rounds that were complete."""
    with _model(settings) as model:
        _check(settings, model)
        from led_rl.benchmarks.engine_figure import benchmark_figure
        from led_rl.engines.timed_blocks import BlockError

        about = {"settings": settings.as_json(), "machine": machine(), "versions": versions()}
        report = Report(about | {"model": asdict(model)}, [])
        engines = _engines(settings, model)
        report.about["engines"] = {
            name: {"start_s": engine.start_s, "added_bytes": engine.added_bytes()} for name, engine in engines.items()
        }
        print(_describe(settings, model, engines), file=sys.stderr)
        rounds = len(settings.batches) * len(settings.contexts) * settings.rounds
        try:
            with progress_bar(rounds, "benchmark", "round") as bar:
                _measure(settings, model.vocab, engines, report, bar)
            report.complete = True
        except BlockError as error:
            raise BenchmarkError(str(error)) from error
        except KeyboardInterrupt:
            print("led-rl benchmark: interrupted; these are the complete rounds", file=sys.stderr)
    report.write(settings.output)
    for cell in report.cells:
        if cell.blocks:
            print(f"\nbatch {cell.batch}, context {cell.context}, temperature {cell.temperature:.3g}")
            print(table(cell.summaries()))
    benchmark_figure([(c.batch, c.context, c.summaries()) for c in report.cells if c.blocks]).savefig(
        settings.output / FIGURE, dpi=150
    )
    return report


def _measure(
    settings: Settings, vocab: int, engines: dict[str, "BlockEngine"], report: Report, bar: ProgressBar
) -> None:
    """Fills the report's cells, round by round, and writes it after each."""
    arms = arms_of(settings)
    sampling = Sampling(settings.temperature, settings.top_p, settings.top_k, max_tokens=settings.new_tokens)

    def block(arm: str, prompts: list[list[int]], sampling: Sampling) -> "Timing":
        return engines[PLAIN if arm == PLAIN else STANDARD].run(prompts, arms[arm], sampling, settings.logprobs)

    for batch, context in product(settings.batches, settings.contexts):
        prompts = prompts_of(settings.seed, batch, context, vocab)
        if settings.explored_fraction is not None:
            bar.note(f"batch {batch}, context {context}: looking for the temperature")
            found = find_temperature(settings.explored_fraction, block, prompts, sampling)
            sampling = replace(sampling, temperature=found)
        cell = Cell(batch, context, sampling.temperature, [])
        report.cells.append(cell)
        bar.note(f"batch {batch}, context {context}: warm-up")
        for blocks in rounds_of(arms, block, prompts, sampling, settings):
            cell.blocks += blocks
            report.write(settings.output)
            bar.advance(note=f"batch {batch}, context {context}: {_ratios_so_far(cell)}")


def prompts_of(seed: int, batch: int, context: int, vocab: int) -> list[list[int]]:
    """`batch` prompts of `context` random tokens."""
    generator = random.Random(f"{seed}/{batch}/{context}")
    return [[generator.randrange(vocab) for _ in range(context)] for _ in range(batch)]


def rounds_of(
    arms: Mapping[str, DecodingParams],
    block: "Callable[[str, list[list[int]], Sampling], Timing]",
    prompts: list[list[int]],
    sampling: Sampling,
    settings: Settings,
) -> Iterator[list[Block]]:
    """The blocks of each of `settings.rounds` rounds over the arms, after a warm-up of all of them."""
    others = [arm for arm in arms if arm != STANDARD]
    for arm in arms:
        block(arm, prompts, replace(sampling, max_tokens=settings.warmup_tokens))
    for number in range(settings.rounds):
        yield [
            Block(arm, number, place, len(prompts), **asdict(block(arm, prompts, sampling)))
            for place, arm in enumerate(order_of_round(others, number))
        ]


def arms_of(settings: Settings) -> dict[str, DecodingParams]:
    """The decoding of each arm, by name."""
    led = DecodingParams("led", depth=settings.depth, k=settings.k, latent_norm=settings.latent_norm, think_only=False)
    arms = {
        STANDARD: DecodingParams(),
        "top_k_control": replace(led, decoding="top_k_control"),
        "led_coin": led,
        "led_marginal": replace(led, draw="marginal"),
        "led_reference": replace(led, decoding="led_reference"),
        **{name: DecodingParams(name, think_only=False, **_without_end(name)) for name in BASELINE_ARMS},
    }
    arms = {name: arm for name, arm in arms.items() if name in (STANDARD, *settings.arms)}
    return arms | ({PLAIN: DecodingParams()} if settings.with_plain else {})


def _without_end(decoding: str) -> dict[str, Any]:
    """What a decoding needs to think to the end: no cold stop."""
    return {"soft_cold_stop_length": 0} if "soft_cold_stop_length" in PROPERTIES[decoding].numbers else {}


def find_temperature(fraction: float, block: Any, prompts: list[list[int]], sampling: Sampling) -> float:
    """Temperature at which LED explores about that fraction of the rows: bisection, a block a step."""
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(PILOT_BLOCKS):
        middle = (low + high) / 2
        pilot = replace(sampling, temperature=math.exp(middle))
        statistics = block("led_coin", prompts, pilot).statistics
        explores = 1 - statistics["confidence"] / statistics["rows"]
        low, high = (low, middle) if explores > fraction else (middle, high)
    return round(math.exp((low + high) / 2), 4)


def _engines(settings: Settings, model: BenchmarkModel) -> dict[str, "BlockEngine"]:
    """The engine with LED and, if asked for, one without."""
    from led_rl.engines.timed_blocks import BlockEngine

    arguments = settings.engine_arguments(engines=2 if settings.with_plain else 1)
    depths = {PLAIN: 0} if settings.with_plain else {}  # first, before LED's sampler is installed in this process
    engines = {}
    for name, depth in {**depths, STANDARD: settings.depth}.items():
        print(f"starting vLLM {'without' if depth == 0 else 'with'} LED ...", file=sys.stderr)
        baselines = admitting(arms_of(settings).values()) if depth else ()
        engine = BlockEngine(model.path, depth, model.random_weights, settings.seed, baselines, **arguments)
        if lacking := engine.lacks(max(settings.batches), settings.longest):
            raise BenchmarkError(
                f"{lacking}: lower --batch, --context or --new-tokens (or raise VLLM_CPU_KVCACHE_SPACE, --gpu-memory)"
            )
        engines[name] = engine
    return engines


def _check(settings: Settings, model: BenchmarkModel) -> None:
    if settings.depth > model.layers:
        raise BenchmarkError(f"--depth {settings.depth} reads more layers than the model's {model.layers}")
    if settings.k > model.vocab:
        raise BenchmarkError(f"--k {settings.k} is more than the model's vocabulary of {model.vocab}")


@contextmanager
def _model(settings: Settings) -> Iterator[BenchmarkModel]:
    if settings.shape is None:
        try:
            model = read_checkpoint(str(settings.model))
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"--model {settings.model}: {str(error).splitlines()[0]}") from error
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="led-rl-benchmark-") as folder:
        yield write_shape(settings.shape, Path(folder), settings.longest, settings.vocab)


def _describe(settings: Settings, model: BenchmarkModel, engines: dict[str, "BlockEngine"]) -> str:
    engine = engines[STANDARD]
    added = engine.added_bytes()
    memory = " + ".join(f"{count / 1024:,.0f} KiB {name.replace('_', ' ')}" for name, count in added.items())
    start = ", ".join(f"{name if name == PLAIN else 'LED'} {e.start_s:.1f} s" for name, e in engines.items())
    return (
        f"{settings.shape or settings.model}: {model.layers} layers, hidden {model.hidden}, vocabulary {model.vocab}; "
        f"depth {settings.depth}, k {settings.k}\nengine start: {start}\nmemory that LED holds: {memory}"
    )


def _ratios_so_far(cell: Cell) -> str:
    shown = [(s.arm, s.ratios.median) for s in cell.summaries() if s.ratios and s.arm.startswith("led")]
    return ", ".join(f"{arm} {ratio:.3f}" for arm, ratio in shown)
