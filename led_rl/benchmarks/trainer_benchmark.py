"""`led-rl benchmark-trainer`: a training step of LEDGRPOTrainer beside one of TRL's GRPOTrainer, and where it goes.

One process builds the trainers of one recipe: TRL's, twice, and LEDGRPOTrainer with standard decoding (`led_trainer`);
if the recipe's decoding is another, LEDGRPOTrainer with that, too. Each trains in a thread of its own, and a turn goes
from one to the next, so that at any time a single one runs and the machine's drift cancels (trainer_results.py). A turn
lasts from the beginning of a step (TrainerCallback.on_step_begin) to the beginning of the next one: TRL generates
inside `training_step`, so rollout, weight sync, rewards, loss, optimizer, logging and loading of prompts all lie
within. Every trainer draws the same prompts, and before each step the random generators are seeded alike.

Plain TRL is `trl.GRPOTrainer` with the very values of the recipe; but TRL has no way to give `vllm.LLM` arguments. On a
GPU, without `vllm_engine_arguments` in the recipe, it gets nothing of led-rl's. Else its engine is built by
`LEDVLLMGeneration` with LED off (EngineOptions(), no decoding in any request), from which it gets: on a CPU, float32
and eager mode (CPU_ENGINE_ARGUMENTS) and linear weights that can be replaced; the recipe's `vllm_engine_arguments`; the
run's seed for the engine; and the stopwatch around rollout and weight sync. LEDGRPOTrainer always has all that.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from led_rl.benchmarks.machine import machine, versions
from led_rl.benchmarks.trainer_results import (
    BASELINES,
    STANDARD,
    Step,
    as_json,
    order_of_round,
    summarise,
    table,
)
from led_rl.decoding import UserError
from led_rl.engines.environment import LAUNCHED

if TYPE_CHECKING:
    from led_rl.training.config import Recipe

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "quickstart_standard.yaml"
RESULTS, FIGURE = "benchmark-trainer.json", "benchmark-trainer.png"
WARM_UP = 1  # rounds
SMOKE = ("--max_completion_length", "6", "--num_generations", "4", "--per_device_train_batch_size", "8")
WATCHED: tuple[str, ...] = (
    "--report_to",
    "none",
    "--save_strategy",
    "'no'",
    "--eval_strategy",
    "'no'",
    "--logging_steps",
    "1",
)
WATCHED += ("--disable_tqdm", "true", "--num_completions_to_print", "0")


class TrainerBenchmarkError(UserError):
    """What was asked for cannot be measured; names the option or the recipe's key."""


@dataclass(frozen=True)
class Options:
    recipe: Path | None
    overrides: tuple[str, ...]
    steps: int
    rounds: int
    output: Path


def benchmark(options: Options) -> bool:
    """Measures, prints and writes; after an interrupt, the steps so far. Returns whether all rounds were measured."""
    from led_rl.benchmarks.trainer_turns import Turns, take_turns

    with tempfile.TemporaryDirectory(prefix="led-rl-benchmark-trainer-") as folder:
        command = _recipe_command(options, Path(folder))
        recipe, measured = _check(options, command)
        longest = max(recipe.training.max_steps, options.steps * (options.rounds + WARM_UP) + 1)
        command += [*WATCHED, "--max_steps", str(longest)]
        arms = (*BASELINES, *measured)  # an engine with LED comes last: it installs its sampler in this process
        turns = Turns([(n, arm) for n in range(-WARM_UP, options.rounds) for arm in order_of_round(measured, n)])
        trainers = {}
        for arm in arms:
            print(f"building {arm} ...", file=sys.stderr)
            decoding = recipe.training.decoding if arm == measured[-1] else "standard"
            place = ["--output_dir", str(Path(folder) / arm), "--decoding", decoding]
            trainers[arm] = _build(arm, [*command, *place])
        about = {
            "settings": {**asdict(options), "recipe": str(recipe.path), "output": str(options.output)},
            "recipe": recipe.values,
            "machine": machine(),
            "versions": versions(),
        }
        complete = take_turns(
            trainers, turns, options.steps, lambda steps: _write(options, about, steps, complete=False)
        )
        about["wrapped_models"] = {arm: type(trainer.model_wrapped).__name__ for arm, trainer in trainers.items()}
        _write(options, about, turns.steps, complete)
    from led_rl.benchmarks.trainer_figure import trainer_figure

    summaries = summarise(turns.steps)
    print(f"\n{table(summaries)}")
    trainer_figure(summaries).savefig(options.output / FIGURE, dpi=150)
    return complete


def _write(options: Options, about: Mapping[str, Any], steps: Sequence[Step], complete: bool) -> None:
    """Writes the results whole or not at all."""
    content = {**about, "complete": complete, "arms": as_json(summarise(steps)), "steps": [asdict(s) for s in steps]}
    part = options.output / f"{RESULTS}.part"
    part.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    part.replace(options.output / RESULTS)


def _recipe_command(options: Options, folder: Path) -> list[str]:
    """The recipe and its overrides, as for training; without the quickstart's warm-up, random weights."""
    command = [str(options.recipe or RECIPE), *options.overrides]
    if options.recipe is None and not Path("runs/quickstart/base/warmup.json").is_file():
        base = str(folder / "base")
        print("no warm-up in runs/quickstart/base: the toy model gets random weights", file=sys.stderr)
        warm_up = [sys.executable, "-m", "led_rl.toy.warmup", base, "--steps", "1"]  # one step, of 6e-5 a weight
        subprocess.run(warm_up, check=True, capture_output=True)
        command[1:1] = ["--model_name_or_path", base, "--dataset", f"{base}/train.jsonl"]
    return command


def _check(options: Options, command: Sequence[str]) -> tuple["Recipe", list[str]]:
    """The recipe as given, and the arms that are measured against TRL's."""
    from led_rl.training.recipe import load_recipe

    recipe = load_recipe(command)
    training = recipe.training
    if training.deepspeed:
        raise TrainerBenchmarkError("deepspeed: one process holds all trainers; give --deepspeed null")
    if not training.use_vllm or training.vllm_mode != "colocate":
        raise TrainerBenchmarkError("vllm_mode: each trainer needs an engine of its own; give --vllm_mode colocate")
    cycle = int(training.steps_per_generation or 1) * training.num_iterations
    accumulation = training.gradient_accumulation_steps
    if options.steps * accumulation % cycle:
        raise TrainerBenchmarkError(
            f"argument --steps {options.steps}: a rollout of this recipe serves {cycle / accumulation:g} steps "
            "(steps_per_generation, num_iterations); give a multiple of that, so that every turn does equal work"
        )
    return recipe, [STANDARD, *([] if training.decoding == "standard" else [training.decoding])]


@contextmanager
def _same_environment() -> Iterator[None]:
    """Takes back the rank that TRL sets for vLLM: the next trainer would take it for a launcher's, and use DDP."""
    before = {name: os.environ.get(name) for name in LAUNCHED}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _build(arm: str, command: Sequence[str]) -> Any:
    """The trainer of one arm, built as led_rl.train builds it; TRL's as the head of this file says."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import GRPOTrainer

    from led_rl.engines.environment import has_gpu
    from led_rl.sampler.capture_options import EngineOptions
    from led_rl.training.build import trainer_arguments
    from led_rl.training.checks.recipe import check_recipe
    from led_rl.training.recipe import load_recipe
    from led_rl.training.rollout import LEDVLLMGeneration, rollouts_by
    from led_rl.training.trainer import LEDGRPOTrainer

    recipe = load_recipe(command)
    checked, training = check_recipe(recipe), recipe.training
    build: Any = GRPOTrainer if arm in BASELINES else LEDGRPOTrainer
    engine: Any = nullcontext()
    if arm in BASELINES and not (has_gpu() and not training.vllm_engine_arguments):
        arguments: Any = dict(training.vllm_engine_arguments or {})  # type: ignore[arg-type]
        engine = rollouts_by(
            partial(LEDVLLMGeneration, options=EngineOptions(), engine_arguments=arguments, run_seed=training.seed)
        )
    with engine, _same_environment():
        trainer = build(**trainer_arguments(recipe, checked))
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    return trainer
