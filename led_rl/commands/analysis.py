"""`led-rl analyse`: what a model's layers hold while it thinks, and whether LED has anything to read there."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from led_rl.commands.arguments import Parser, count, limit, number, output_folder, seed
from led_rl.decoding import DecodingParams, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the process's exit code.

    Raises:
        UserError: names the option, the file and the row at fault.
    """
    options = _parse(argv)
    from led_rl.evaluation.layers.verdict import MEANING
    from led_rl.reporting.analysis_figure import analysis_table, save_analysis_figure

    found = _analyses(options)
    (options.output / "analysis.json").write_text(json.dumps(found, indent=1, allow_nan=True), encoding="utf-8")
    save_analysis_figure(options.output / "analysis.png", found)
    print(analysis_table(found, MEANING))
    print("[low, high]: 95 % bootstrap intervals over problems.\n")
    for label, analysis in found.items():
        print(f"{label}: {analysis['verdict']['sentence']}")
    print(f"\nanalysis.json and analysis.png: {options.output}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "led-rl analyse",
        description="Entropy, coverage and confidence of every layer over thinking tokens; does LED have anything to "
        "read in this model?",
    )
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        metavar="[LABEL=]MODEL",
        help="checkpoint or run folders, hub ids; the first one generates",
    )
    add(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="JSONL of problems to think about, or of completions (--completion-column), or an evaluation's folder",
    )
    add("--problem-column", metavar="KEY", help="what is asked (by default `problem` or `question`)")
    add("--completion-column", metavar="KEY", help="the rows hold completions under KEY: generate nothing")
    add("--arm", help="of an evaluation's folder (by default its first)")
    add("--limit", type=count, default=64, help="problems (%(default)s)")
    add("--n", type=count, default=2, help="completions generated for each problem (%(default)s)")
    add("--max-tokens", type=count, default=1024, help="longest completion, generated or read (%(default)s)")
    add("--temperature", type=number, default=1.0, help="of sampling and of every posterior (%(default)s)")
    add("--positions", type=limit, default=256, help="thinking tokens read of a completion; 0: all (%(default)s)")
    add("--depth", type=count, help="layers LED reads (8, or as many as the model has)")
    add("--k", type=count, default=8, help="candidates (%(default)s)")
    add("--all-tokens", action="store_true", help="read all tokens of a completion, for models without think markers")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: float32 on CPU")
    add("--trust-remote-code", action="store_true", help="run model code of the hub")
    add("--seed", type=seed, default=0, help="(%(default)s)")
    add("--output", type=Path, default=Path("runs/analysis"), help="folder of JSON and figure (%(default)s)")
    options = parser.parse_args(argv)
    if not 0 < options.temperature < float("inf"):
        raise UserError(f"argument --temperature: expected a finite number above 0, got {options.temperature}")
    if options.arm and not options.data.is_dir():
        raise UserError("argument --arm: allowed where --data is the folder of an evaluation")
    if not options.data.exists():
        raise UserError(f"argument --data: {str(options.data)!r} does not exist")
    if options.completion_column and options.data.is_dir():
        raise UserError("argument --completion-column: allowed where --data is a JSONL file")
    return options


def _analyses(options: argparse.Namespace) -> dict[str, Any]:
    """label -> what analysis.json holds of a checkpoint."""
    from transformers import AutoTokenizer

    from led_rl.evaluation.checkpoints import find_checkpoints
    from led_rl.evaluation.layers.analysis import analyse
    from led_rl.evaluation.layers.reader import LayerReader
    from led_rl.evaluation.layers.thoughts import generated_thoughts
    from led_rl.evaluation.layers.verdict import as_json
    from led_rl.terminal.progress_bar import progress_bar

    checkpoints = find_checkpoints(options.models)
    configs = {label: _config(label, path, options) for label, path in checkpoints.items()}
    first = next(iter(checkpoints))
    tokenizer = AutoTokenizer.from_pretrained(checkpoints[first], trust_remote_code=options.trust_remote_code)
    vocabularies = {label: config.get_text_config().vocab_size for label, config in configs.items()}
    if len(set(vocabularies.values())) > 1:
        listed = ", ".join(f"{label}: {size}" for label, size in vocabularies.items())
        raise UserError(
            f"all models read the same tokens, but their vocabularies differ ({listed}); analyse each alone"
        )
    decodings = {label: _decoding(label, config, options) for label, config in configs.items()}
    problems, thoughts = _inputs(tokenizer, options)
    output_folder(options.output)
    found = {}
    for label, path in checkpoints.items():
        model = _load(label, path, options)
        reader = LayerReader(model)
        if thoughts is None:
            with progress_bar(len(problems), f"{label}: think", "problem") as bar:
                thoughts = generated_thoughts(
                    model,
                    tokenizer,
                    problems,
                    n=options.n,
                    temperature=options.temperature,
                    max_tokens=options.max_tokens,
                    seed=options.seed,
                    all_tokens=options.all_tokens,
                    done=bar.advance,
                )
        if not any(any(thought.thinking) for thought in thoughts):
            raise UserError(f"{options.data}: no completion holds a thinking token; --all-tokens reads every token")
        with progress_bar(len(thoughts), f"{label}: read", "completion") as bar:
            analysis = analyse(
                reader,
                thoughts,
                decodings[label],
                options.temperature,
                positions_each=options.positions,
                done=bar.advance,
            )
        found[label] = {"model": path, "completions_by": first, **as_json(analysis)}
        del model, reader
    return found


def _inputs(tokenizer: Any, options: argparse.Namespace) -> tuple[list[tuple[str, str, list[str]]], Any]:
    """Problems, and completions unless they are to be generated; wrong rows and markers are found here."""
    from led_rl.evaluation.layers.thoughts import given_thoughts, read_problems, recorded_thoughts, thinking_mask_of

    thinking_mask_of(tokenizer, options.all_tokens)
    if options.data.is_dir():
        return [], recorded_thoughts(tokenizer, options.data, options.arm, options.limit, options.max_tokens)
    problems = read_problems(options.data, options.problem_column, options.completion_column, options.limit)
    if options.completion_column:
        return problems, given_thoughts(tokenizer, problems, options.all_tokens, options.max_tokens)
    return problems, None


def _config(label: str, path: str, options: argparse.Namespace) -> Any:
    from transformers import AutoConfig

    if path.startswith((".", "/", "~")) and not Path(path).is_dir():
        raise UserError(f"model {label}: folder {path!r} does not exist")
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=options.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model {label}: {path!r} is neither a checkpoint folder nor a hub model: {reason}") from error


def _decoding(label: str, config: Any, options: argparse.Namespace) -> DecodingParams:
    layers = config.get_text_config().num_hidden_layers
    depth = options.depth or min(8, layers)
    if depth > layers:
        raise UserError(f"argument --depth {depth}: model {label} has {layers} layers; allowed: 1 to {layers}")
    return DecodingParams("led", depth=depth, k=options.k)


def _load(label: str, path: str, options: argparse.Namespace) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    gpu = torch.cuda.is_available()
    dtype = options.dtype if options.dtype != "auto" or gpu else "float32"
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, trust_remote_code=options.trust_remote_code
        )
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model {label}: {path!r} cannot be loaded: {reason}") from error
    return model.to("cuda" if gpu else "cpu").eval()
