"""`led-rl COMMAND ...`: every command is imported only when it is called, so that help is instant."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence

from led_rl import __version__

# name -> (module:function, one line of help). The function takes the arguments after the name, returns the exit status.
COMMANDS: dict[str, tuple[str, str]] = {
    "grade": ("led_rl.commands.grading:main", "grade predictions in a JSONL file against gold answers"),
    "golds": ("led_rl.commands.golds:main", "what the gold answers of a dataset are read as, and which are refused"),
    "evaluate": (
        "led_rl.commands.evaluation:main",
        "compare decodings and checkpoints on benchmarks, or on problems of your own",
    ),
    "report": (
        "led_rl.commands.report:main",
        "an evaluation as one HTML page with its samples, Markdown and CSV",
    ),
    "export": ("led_rl.commands.export:main", "an evaluation's completions as logs of Inspect or as Parquet"),
    "dashboard": ("led_rl.commands.dashboard:main", "a W&B workspace with the views of LED runs"),
    "analyse": ("led_rl.commands.analysis:main", "what a model's layers hold while it thinks: can LED help it?"),
    "study": ("led_rl.commands.study:main", "run the studies of recipes, and write the page of evidence from them"),
    "serve": ("led_rl.commands.serving:main", "an OpenAI-compatible vLLM server whose requests may choose LED"),
    "benchmark": (
        "led_rl.commands.engine_benchmark:main",
        "what LED costs in throughput and memory, beside standard decoding",
    ),
    "benchmark-trainer": (
        "led_rl.commands.trainer_benchmark:main",
        "time of a training step, beside TRL's own trainer",
    ),
    "benchmark-loss": (
        "led_rl.commands.loss_benchmark:main",
        "seconds and memory of the loss over sampled supports, beside TRL's",
    ),
    "cost-model": (
        "led_rl.commands.cost_model:main",
        "predict a benchmark's figures from bytes, operations and launches",
    ),
    "plan": ("led_rl.commands.plan:main", "memory of each GPU and time of a step that a recipe needs"),
    "doctor": (
        "led_rl.commands.doctor:main",
        "whether LED works on this machine, with a model, or on a running server",
    ),
    "benchmark-grader": (
        "led_rl.commands.grader_benchmark:main",
        "accuracy, speed and safety of the grader, beside math-verify, sympy and harnesses",
    ),
}
RUN_MODELS = ("evaluate", "analyse", "study", "benchmark", "benchmark-trainer", "benchmark-loss", "plan", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: its own, or 2 with one line on stderr for what cannot be done."""
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output (`head`, say) has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python's flush at exit would raise again
        return 128 + signal.SIGPIPE


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if name == "--version":
        print(f"led-rl {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"led-rl: unknown command {name!r}; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, function = COMMANDS[name][0].split(":")
    if name in RUN_MODELS:
        from led_rl.engines.environment import prepare_environment

        prepare_environment()  # before the command's module imports torch, which reads the number of threads
    try:
        return getattr(importlib.import_module(module), function)(arguments[1:])
    except KeyboardInterrupt:
        print("led-rl: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_for_the_user(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def is_for_the_user(error: Exception) -> bool:
    """Whether the error says what the user did wrong; any other one is a bug and keeps its traceback."""
    from led_rl.decoding import UserError
    from led_rl.thinking import MissingMarkersError
    from rewards import RewardError

    return isinstance(error, UserError | MissingMarkersError | RewardError)


def one_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: led-rl COMMAND ...", "", "commands (led-rl COMMAND --help for each):", *lines])


if __name__ == "__main__":
    sys.exit(main())
