"""`led-rl benchmark`: what LED costs in throughput and memory, beside standard decoding."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from led_rl.benchmarks.engine_settings import ARMS, BASELINE_ARMS, BenchmarkError, Settings
from led_rl.benchmarks.shapes import SHAPES
from led_rl.commands.arguments import Parser, count, counts, fraction, limit, output_folder, temperature
from led_rl.engines.environment import has_gpu

PROGRAM = "led-rl benchmark"
DESCRIPTION = """\
Measures what LED costs. Blocks of standard decoding alternate with blocks of
  top_k_control  standard decoding restricted to LED's k candidates
  led_coin       LED, coin first: latent layers of the rows that explore
  led_marginal   LED, one draw from mu: latent layers of every row
  led_reference  LED as its reference code does it: a full softmax of every layer of every row
and, if --arms names them, of the other decodings of docs/decodings.md with their defaults
  dola, near_final, soft_thinking, soft_thinking_gumbel, latent_noise
on one vLLM engine, and each ratio compares a block with its neighbours, so that the machine's drift cancels. Every row
of every step may explore (led_think_only=0): the most that LED can cost. Several sizes make a grid.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status, 130 if it was interrupted.

    Raises:
        UserError: an option is wrong, or what it asks for cannot be measured.
    """
    settings = parse(arguments)
    output_folder(settings.output)
    set_environment(settings)  # before torch and vLLM are imported
    from led_rl.benchmarks.engine_benchmark import FIGURE, RESULTS, benchmark

    report = benchmark(settings)
    print(f"\nresults: {settings.output / RESULTS}, {settings.output / FIGURE}")
    return 0 if report.complete else 130


def set_environment(settings: Settings) -> None:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # LED's counters are read in this process
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if settings.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if not settings.eager:
        os.environ["TORCHDYNAMO_DISABLE"] = "0"


def parse(arguments: Sequence[str]) -> Settings:
    """Raises UserError where an option is wrong."""
    parser = Parser(PROGRAM, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    shapes = "; ".join(f"{name}: {shape.about}" for name, shape in SHAPES.items())
    add("--model", help="checkpoint folder or hub id, instead of a shape")
    add("--shape", choices=tuple(SHAPES), help=f"random weights ({shapes}; default quickstart)")
    add("--output", type=Path, default=Path("runs/benchmark"), help="folder of benchmark.json and .png (%(default)s)")
    add("--batch", type=counts, metavar="N,N", help="requests at a time (the shape's own; 64 with --model)")
    add("--context", type=counts, default=(32,), metavar="N,N", help="prompt tokens (32)")
    add("--new-tokens", type=count, help="tokens that each request generates in a block (64)")
    add("--rounds", type=count, help="rounds of blocks for each size (6)")
    add("--depth", type=count, help="layers that LED reads, the final one included (the shape's own; 8 with --model)")
    add("--k", type=count, default=8, help="candidates (%(default)s)")
    add("--vocab", type=count, help="tokens of the vocabulary, instead of the shape's own")
    add("--latent-norm", action="store_true", help="apply the final norm to latent states")
    add(
        "--arms",
        type=_arms,
        default=ARMS,
        metavar="ARM,ARM",
        help=f"beside standard ({', '.join(ARMS)}); also {', '.join(BASELINE_ARMS)}",
    )
    add("--with-plain", action="store_true", help="also standard requests on a second engine, built without LED")
    add("--temperature", type=temperature, help="of every arm (1; searched for where --explored-fraction applies)")
    add("--explored-fraction", type=fraction, metavar="F",
        help="search for the temperature at which LED explores this fraction of the rows (the shape's own "
        "unless --temperature is given)")  # fmt: skip
    add("--top-p", type=fraction, default=1.0, help="of standard decoding (%(default)s: no truncation to pay for)")
    add("--top-k", type=limit, default=0, help="of standard decoding; 0: no limit (%(default)s)")
    add("--logprobs", action=argparse.BooleanOptionalAction, default=True, help="ask for log-probabilities (yes)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="(float32 on a CPU, else bfloat16)")
    add("--eager", action=argparse.BooleanOptionalAction, help="no compilation, no graphs (on a CPU)")
    add("--threads", type=count, help="of the CPU (OMP_NUM_THREADS, else 1)")
    add("--gpu-memory", type=fraction, default=0.8, help="fraction of the device that vLLM may use (%(default)s)")
    add("--seed", type=int, default=0, help="of prompts and random weights (%(default)s)")
    add("--smoke", action="store_true", help="seconds instead of minutes: proves that it runs, measures nothing")
    return _settings(parser.parse_args(list(arguments)))


def _settings(options: argparse.Namespace) -> Settings:
    given = vars(options)
    smoke = given.pop("smoke")
    if options.model and options.shape:
        raise BenchmarkError("argument --shape: not together with --model")
    if options.model and options.vocab:
        raise BenchmarkError("argument --vocab: not together with --model, which has its own")
    shape = None if options.model else SHAPES[options.shape or "quickstart"]
    given["shape"] = None if options.model else options.shape or "quickstart"
    if options.explored_fraction is not None and options.temperature is not None:
        raise BenchmarkError("argument --explored-fraction: not together with --temperature, which it searches for")
    if options.explored_fraction is None and options.temperature is None and shape is not None:
        given["explored_fraction"] = shape.explored
    if options.explored_fraction is not None and "led_coin" not in options.arms:
        raise BenchmarkError("argument --explored-fraction: is searched for with the arm led_coin; see --arms")
    if not options.arms and not options.with_plain:
        raise BenchmarkError("argument --arms: none is left to compare with standard decoding")
    batch = shape.batch if shape else 64
    defaults = {
        "new_tokens": 12 if smoke else 64,
        "rounds": 2 if smoke else 6,
        "depth": shape.depth if shape else 8,
        "temperature": 1.0,
        "dtype": "bfloat16" if has_gpu() else "float32",
        "eager": not has_gpu(),
    }
    given |= {name: value for name, value in defaults.items() if given[name] is None}
    given["batches"] = given.pop("batch") or (min(batch, 8) if smoke else batch,)
    given["contexts"] = given.pop("context")
    if given["new_tokens"] < 4:
        raise BenchmarkError("argument --new-tokens: must be at least 4")
    return Settings(**given)


def _arms(text: str) -> tuple[str, ...]:
    arms = tuple(dict.fromkeys(part for part in text.split(",") if part))
    allowed = (*ARMS, *BASELINE_ARMS)
    if unknown := [arm for arm in arms if arm not in allowed]:
        raise argparse.ArgumentTypeError(f"unknown arm {unknown[0]!r}; allowed: {', '.join(allowed)}")
    return arms
