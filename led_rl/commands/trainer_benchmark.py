"""`led-rl benchmark-trainer`: time of a training step of LEDGRPOTrainer, beside TRL's GRPOTrainer."""

import os
from collections.abc import Sequence
from pathlib import Path

from led_rl.benchmarks.trainer_benchmark import (
    FIGURE,
    RESULTS,
    SMOKE,
    WARM_UP,
    Options,
    benchmark,
)
from led_rl.commands.arguments import Parser, count, output_folder

PROGRAM = "led-rl benchmark-trainer"


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status, 130 if it was interrupted.

    Raises:
        UserError: an option or a key of the recipe is wrong, or what they ask for cannot be measured.
    """
    options = parse(arguments)
    output_folder(options.output)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    complete = benchmark(options)
    print(f"\nresults: {options.output / RESULTS}, {options.output / FIGURE}")
    return 0 if complete else 130


def parse(arguments: Sequence[str]) -> Options:
    """Raises UserError where an option is wrong; keys of the recipe are checked later."""
    rest = list(arguments)
    recipe = Path(rest.pop(0)) if rest and not rest[0].startswith("-") else None
    parser = Parser(
        PROGRAM,
        usage=f"{PROGRAM} [RECIPE] [--steps N] [--rounds R] [--output DIR] [--smoke] [--KEY VALUE ...]",
        description="Time of a training step of LEDGRPOTrainer over TRL's GRPOTrainer's, and where it goes. RECIPE: "
        "the quickstart's standard one, with random weights if there is no warm-up yet. --KEY VALUE overrides it, as "
        "in training; with --decoding led, a step with LED is measured, too.",
    )
    add = parser.add_argument
    add("--steps", type=count, default=1, help="steps that a trainer takes in its turn (%(default)s)")
    add("--rounds", type=count, help=f"rounds that are measured, after {WARM_UP} of warm-up (8)")
    add("--output", type=Path, default=Path("runs/benchmark-trainer"), help=f"folder of {RESULTS} (%(default)s)")
    add("--smoke", action="store_true", help="seconds instead of minutes: proves that it runs, measures nothing")
    given, overrides = parser.parse_known_args(rest)
    rounds = given.rounds or (2 if given.smoke else 8)
    return Options(recipe, (*(SMOKE if given.smoke else ()), *overrides), given.steps, rounds, given.output)
