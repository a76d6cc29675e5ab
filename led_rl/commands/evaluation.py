"""`led-rl evaluate`: compare decodings, and checkpoints of one architecture, on a file of problems."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from led_rl.commands.arguments import Parser, count, fraction, limit, seed, temperature
from led_rl.decoding import DECODINGS
from led_rl.engines.engine import Engine, Sampling
from led_rl.evaluation.checkpoints import check_checkpoints
from led_rl.evaluation.problems import ChatTokenizer, Problem, comparison_arms, load_problems, prompt_ids
from led_rl.evaluation.records import EvaluationError
from led_rl.evaluation.run import Grading, evaluate, try_reward
from led_rl.evaluation.summary import SummaryRow, summarise, write_summary
from led_rl.reporting.console import console_table


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the process's exit code.

    Raises:
        UserError: names the option, the file and the row at fault.
    """
    options = _parse(argv)
    try:
        rows = _evaluate(options)
    except OSError as error:
        raise EvaluationError(str(error)) from error
    print(console_table(rows))
    print(f"\nrecords, manifest.json and summary.json: {options.output}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "led-rl evaluate",
        description="Compare decodings, and checkpoints of one architecture; goes on with what --output holds.",
    )
    add = parser.add_argument
    add("--model", nargs="+", action="extend", required=True, metavar="[LABEL=]PATH", help="checkpoints or hub ids")
    add("--data", required=True, metavar="JSONL", help="rows with `problem` and the columns that the reward reads")
    add("--problem-column", metavar="KEY", help="what is asked (by default `problem` or `question`)")
    add(
        "--answer-column", metavar="KEY", help="the gold, or a text that ends in `#### gold`; rewards read it as answer"
    )
    add("--bad-golds", choices=("refuse", "drop"), default="refuse", help="golds the reward cannot use (%(default)s)")
    add("--reward", required=True, help="name of a reward, or package.module:function")
    add("--reward-options", type=json.loads, default={}, metavar="JSON", help="options of the reward")
    add("--output", required=True, type=Path, help="folder of the records")
    add("--decodings", default="standard,top_k_control,led", help=f"of {', '.join(DECODINGS)} (default: %(default)s)")
    add("--n", type=count, default=16, help="samples per problem (%(default)s)")
    add("--temperature", type=temperature, default=1.0, help="of every decoding (%(default)s)")
    add("--top-p", type=fraction, default=1.0, help="of standard decoding (%(default)s)")
    add("--top-k", type=limit, default=0, help="of standard decoding; 0: no limit (%(default)s)")
    add("--max-tokens", type=count, default=2048, help="longest completion (%(default)s)")
    add("--depth", type=count, default=8, help="layers that LED reads, the final one included (%(default)s)")
    add("--k", type=count, default=8, help="candidates of LED and of its control (%(default)s)")
    add("--limit", type=count, help="only the first LIMIT problems")
    add("--chunk", type=count, help="problems at a time, for resuming and timing (32, or fewer to make 8 chunks)")
    add("--correct-from", type=float, default=1.0, help="reward from which a sample is correct (%(default)s)")
    add("--seed", type=seed, default=0, help="(%(default)s)")
    add("--regrade", action="store_true", help="grade the recorded completions anew; none is generated again")
    add("--engine", choices=("auto", "vllm", "transformers"), default="auto", help="auto: vllm where it is installed")
    return parser.parse_args(argv)


def _evaluate(options: argparse.Namespace) -> list[SummaryRow]:
    checkpoints = _labelled(options.model)
    sampling = Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        max_tokens=options.max_tokens,
        n=options.n,
        seed=options.seed,
    )
    arms = comparison_arms(options.decodings.split(","), sampling, options.depth, options.k)
    problems = load_problems(options.data, options.limit, options.problem_column, options.answer_column)
    first_model = next(iter(checkpoints.values()))
    tokenizer: ChatTokenizer = check_checkpoints(checkpoints, problems, arms)
    reward = _reward(tokenizer, options.reward, options.reward_options)
    problems = _with_usable_golds(problems, options)
    try_reward(Grading(reward, tokenizer, options.correct_from), problems[:2])
    if sampling.temperature == 0 and sampling.n > 1:
        print(
            f"warning: at temperature 0 the {sampling.n} samples of a problem are equal under standard decoding: "
            "pass@k says no more than pass@1; use --n 1, or a temperature",
            file=sys.stderr,
        )
    name = options.engine
    if name == "auto":
        name = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    longest_prompt = max(len(prompt_ids(tokenizer, problem.problem)) for problem in problems)
    depth = 0 if all(arm.decoding.is_standard for arm in arms.values()) else options.depth
    records = evaluate(
        _engine_builder(name, first_model, depth, longest_prompt + options.max_tokens),
        tokenizer,
        checkpoints,
        problems,
        arms,
        reward,
        options.output,
        chunk_size=options.chunk,
        correct_from=options.correct_from,
        regrade=options.regrade,
        about={"engine": name, "reward": options.reward, "reward_options": options.reward_options},
    )
    rows = summarise(records)
    write_summary(options.output, rows)
    return rows


def _reward(tokenizer: ChatTokenizer, name: str, options: object):
    from led_rl.training.reward_loading import load_reward_for

    if not isinstance(options, dict):
        raise EvaluationError(f"--reward-options must be a JSON object, got {options!r}")
    try:
        return load_reward_for(tokenizer, name, **options)
    except ValueError as error:
        raise EvaluationError(str(error)) from error


def _with_usable_golds(problems: list[Problem], options: argparse.Namespace) -> list[Problem]:
    """Without those whose gold the reward cannot use, if --bad-golds says so; otherwise they are an error."""
    from led_rl.training.checks.rows import GOLD_KINDS
    from rewards import check_golds

    kind = GOLD_KINDS.get(options.reward)
    if kind is None:
        return problems
    column = options.reward_options.get("gold_column", "answer")
    if not any(column in problem.columns for problem in problems):
        keys = ", ".join(problems[0].columns) or "none besides the problem"
        raise EvaluationError(
            f"{options.data}: reward {options.reward!r} reads the key {column!r}, which no row has (keys: {keys}); "
            "name the one that holds the gold: --answer-column KEY"
        )
    bad = {gold.row: gold for gold in check_golds([problem.columns.get(column) for problem in problems], kind)}
    if not bad:
        return problems
    listed = "; ".join(f"{problems[row].id}: {gold.gold!r} {gold.reason}" for row, gold in list(bad.items())[:20])
    more = f" and {len(bad) - 20} more" if len(bad) > 20 else ""
    counted = f"{options.data}: {len(bad)} of {len(problems)} golds are unusable ({listed}{more})"
    if options.bad_golds == "refuse" or len(bad) == len(problems):
        raise EvaluationError(f"{counted}; mend them, or leave these problems out: --bad-golds drop")
    print(f"warning: {counted}: left out", file=sys.stderr)
    return [problem for row, problem in enumerate(problems) if row not in bad]


def _labelled(models: Sequence[str]) -> dict[str, str]:
    """label -> checkpoint from `LABEL=PATH` or `PATH`, whose label is its last part."""
    checkpoints: dict[str, str] = {}
    for model in models:
        label, separator, path = model.partition("=")
        if not separator:
            label, path = model.rstrip("/").rsplit("/", 1)[-1], model
        if label in checkpoints:
            raise EvaluationError(f"two checkpoints are called {label!r}; give them labels: --model LABEL=PATH")
        checkpoints[label] = path
    return checkpoints


def _engine_builder(name: str, model: str, depth: int, max_model_len: int) -> Callable[[], Engine]:
    def build() -> Engine:
        if name == "vllm":
            from led_rl.engines.vllm_engine import VLLMEngine

            return VLLMEngine(model, depth=depth, max_model_len=max_model_len)
        from led_rl.engines.transformers_engine import TransformersEngine

        return TransformersEngine(model)

    return build
