"""`led-rl benchmark-loss`: the loss over sampled supports beside TRL's over the vocabulary."""

from collections.abc import Sequence
from pathlib import Path

from led_rl.benchmarks.loss_benchmark import RESULTS, Work, benchmark
from led_rl.benchmarks.shapes import SHAPES
from led_rl.commands.arguments import Parser, count, output_folder


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status.

    Raises:
        UserError: an option is wrong.
    """
    parser = Parser("led-rl benchmark-loss", description="Seconds and peak memory of one update, side by side.")
    add = parser.add_argument
    add("--shape", choices=tuple(SHAPES), default="quickstart", help="model with random weights (%(default)s)")
    add("--completions", type=count, default=128, help="in the batch (%(default)s)")
    add("--tokens", type=count, default=136, help="of the longest completion (%(default)s)")
    add("--k", type=count, default=8, help="candidates of a thinking token (%(default)s)")
    add("--rounds", type=count, default=16, help="after one of warm-up (%(default)s)")
    add("--output", type=Path, default=Path("runs/benchmark-loss"), help=f"folder of {RESULTS} (%(default)s)")
    options = parser.parse_args(list(arguments))
    folder = output_folder(options.output)
    work = Work(options.shape, options.completions, options.tokens, options.k, options.rounds)
    print(benchmark(work, folder))
    print(f"\nresults: {folder / RESULTS}")
    return 0
