"""What a study runs, as commands that a user could type; each is a job with a name and the time it should take."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from led_rl.decoding import DecodingParams, UserError
from led_rl.evaluation.arms import Arm, sweeps
from led_rl.recipe import find_recipe
from led_rl.study.recipe import BASE, Study, as_overrides

PACKAGE = Path(__file__).resolve().parent.parent
DEFAULTS = DecodingParams()


@dataclass(frozen=True)
class Job:
    """One command. `settings` is what decides its result beside the command: the text of a file that it reads."""

    name: str
    kind: str
    command: tuple[str, ...]
    seconds: float  # that the recipe's budget expects
    settings: str = ""

    @property
    def shown(self) -> str:
        """The command as typed with the environment active, from the repository's folder."""
        return " ".join([Path(self.command[0]).name, *(_from_here(word) for word in self.command[1:])])


def _from_here(word: str) -> str:
    path = Path(word)
    return str(path.relative_to(PACKAGE.parent)) if path.is_absolute() and path.is_relative_to(PACKAGE.parent) else word


def label(arm: str, seed: int) -> str:
    """The name of a trained model, of its folder and of its checkpoint in evaluations."""
    return f"{arm}_seed{seed}"


def model_folder(study: Study, name: str) -> str:
    """Where a model lies: the base, or a trained one by its label."""
    return study.recipe.base if name == BASE else str(study.output / name)


def evaluation_folder(study: Study, name: str, rows: tuple[int, int]) -> Path:
    return study.output / "evaluations" / f"{name}_rows{rows[0]}-{rows[1]}"


def analysis_folder(study: Study) -> Path:
    return study.output / "analysis"


def warm_up(study: Study) -> list[Job]:
    """The job that makes the base model, if the recipe says how."""
    how = study.recipe.warmup
    if how is None:
        return []
    options = [word for key, value in how.model_dump().items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command = (sys.executable, "-m", "led_rl.toy.warmup", study.recipe.base, *options, "--save-every", "100")
    return [Job("warm-up", "warm-up", command, how.steps * study.recipe.budget.warmup_step_s)]


def train(study: Study, arm: str, seed: int) -> Job:
    """The job that trains an arm with a seed."""
    training = study.recipe.train
    assert training is not None
    values = training.overrides | training.arms[arm]
    name = label(arm, seed)
    folder = model_folder(study, name)
    own: dict[str, Any] = {"seed": seed, "output_dir": folder, "run_name": f"{study.name} {name}"}
    if study.recipe.warmup:
        own |= {"model_name_or_path": study.recipe.base, "dataset": f"{study.recipe.base}/train.jsonl"}
    launch = training.launch or [sys.executable]
    path = str(find_recipe(training.recipe))
    command = (*launch, str(PACKAGE / "train.py"), path, *as_overrides(values | own))
    budget = study.recipe.budget
    seconds = budget.train_start_s + steps_of(study, arm) * budget.train_step_s
    return Job(f"train {name}", "train", command, seconds, Path(path).read_text(encoding="utf-8"))


def steps_of(study: Study, arm: str) -> int:
    """Training steps of an arm's runs."""
    training = study.recipe.train
    assert training is not None
    given = yaml.safe_load(find_recipe(training.recipe).read_text(encoding="utf-8"))
    return max(0, int((given | training.overrides | training.arms[arm]).get("max_steps", 0)))


def evaluate(study: Study, arm: str, name: str, rows: tuple[int, int], decodings: Sequence[str]) -> Job:
    """The job that samples and grades a model; its recipe is a file that can be run by hand, too."""
    evaluation, folder = study.recipe.evaluate, evaluation_folder(study, name, rows)
    further = study.recipe.problems.columns | evaluation.options
    text = yaml.safe_dump(own_keys(study, name, rows, decodings) | further, sort_keys=False)
    path = folder.with_suffix(".yaml")
    command = (str(Path(sys.executable).parent / "led-rl"), "evaluate", str(path))
    completions = (rows[1] - rows[0]) * evaluation.n * len(decodings)
    budget = study.recipe.budget
    seconds = budget.evaluate_start_s + completions * budget.completion_s
    return Job(f"evaluate {name} on rows {rows[0]}-{rows[1]}", "evaluate", command, seconds, text)


def own_keys(study: Study, name: str, rows: tuple[int, int], decodings: Sequence[str]) -> dict[str, Any]:
    """Keys of an evaluation's recipe that the study decides."""
    evaluation = study.recipe.evaluate
    return {
        "checkpoints": {name: model_folder(study, name)},
        "data": [str(problems_file(study, rows))],
        "reward": study.recipe.problems.reward,
        "arms": [_spec(key, study.arms[key]) for key in decodings],
        "baselines": [],
        "n": evaluation.n,
        "max_tokens": evaluation.max_tokens,
        "depth": evaluation.depth,
        "k": evaluation.k,
        "output": str(evaluation_folder(study, name, rows)),
    }


def _spec(name: str, arm: Arm) -> dict[str, Any]:
    """An evaluation's arm as a mapping with every value that it has."""
    decoding, sampling = dataclasses.asdict(arm.decoding), dataclasses.asdict(arm.sampling)
    always = {"standard": (), "top_k_control": ("k",)}.get(decoding["decoding"], ("depth", "k"))
    options = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in decoding.items()
        if key != "decoding" and (key in always or value != getattr(DEFAULTS, key))
    }
    kept = {key: sampling[key] for key in ("temperature", "top_p", "top_k", "min_p", "max_tokens")}
    return {"name": name, "decoding": decoding["decoding"], **kept, **options}


def analyse(study: Study) -> Job:
    """The job that reads the layers of the base and of all trained models, on the base's thoughts."""
    how = study.recipe.analyse
    assert how is not None
    models = [f"{BASE}={study.recipe.base}"]
    if study.recipe.train:
        names = [label(arm, seed) for arm in study.training_arms for seed in study.recipe.train.seeds]
        models += [f"{name}={model_folder(study, name)}" for name in names]
    options = {
        "data": problems_file(study, study.recipe.problems.rows),
        "limit": how.problems,
        "n": how.n,
        "temperature": how.temperature,
        "max-tokens": how.max_tokens,
        "depth": how.depth,
        "k": how.k,
        "output": analysis_folder(study),
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = (str(Path(sys.executable).parent / "led-rl"), "analyse", *models, *words)
    return Job("analyse layers", "analyse", command, len(models) * study.recipe.budget.analyse_s)


def chains(
    study: Study, runs: Iterable[tuple[str, int]], rows: tuple[int, int], cells: Sequence[str] | None = None
) -> list[list[Job]]:
    """For each run (training arm, seed) its jobs in order: train, then evaluate; first those of the base model.

    Args:
        cells: those that are needed; default: every decoding that the recipe gives an arm.
    """

    def decodings(arm: str) -> list[str]:
        wanted = study.decodings(arm)
        if cells is None:
            return wanted
        of_sweep = sweeps({name: study.arms[name] for name in wanted})
        named = {cell.partition("/")[2] for cell in cells if cell.startswith(f"{arm}/")}
        named |= {name for sweep in named & {*of_sweep} for name in of_sweep[sweep]}
        return [name for name in wanted if name in named]

    made = [[evaluate(study, BASE, BASE, rows, decodings(BASE))]] if decodings(BASE) else []
    for arm, seed in runs:
        name = label(arm, seed)
        made.append(
            [train(study, arm, seed), *([evaluate(study, arm, name, rows, d)] if (d := decodings(arm)) else [])]
        )
    return made


def problems_file(study: Study, rows: tuple[int, int]) -> Path:
    """Where the held-out problems of these rows lie."""
    return study.output / f"problems_rows{rows[0]}-{rows[1]}.jsonl"


def read_problems(study: Study) -> list[str]:
    """The lines of the recipe's problems.

    Raises:
        UserError: the file is missing, not text, or has fewer rows than the recipe takes.
    """
    recipe, source = study.recipe, Path(study.recipe.problems.file)
    if not source.is_file():
        raise UserError(f"{study.path}: problems.file: {str(source)!r} does not exist")
    try:
        lines = [line for line in source.read_text(encoding="utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{study.path}: problems.file: {source} is not UTF-8 text: {error}") from error
    for key, part in (("problems.rows", recipe.problems), ("confirm.rows", recipe.confirm)):
        if part and len(lines) < (rows := part.rows)[1]:
            raise UserError(f"{study.path}: {key} [{rows[0]}, {rows[1]}]: {source} has {len(lines)} rows")
    return lines


def write_problems(study: Study) -> None:
    """Each range of rows that the recipe takes, as a file; raises UserError as `read_problems` does."""
    lines, recipe = read_problems(study), study.recipe
    for rows in (recipe.problems.rows, *([recipe.confirm.rows] if recipe.confirm else [])):
        target = problems_file(study, rows)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(line + "\n" for line in lines[rows[0] : rows[1]]), encoding="utf-8")


def write_settings(job: Job) -> None:
    """The evaluation's recipe, beside its folder."""
    if job.kind == "evaluate":
        path = Path(job.command[-1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(job.settings, encoding="utf-8")


def fingerprint(job: Job) -> str:
    """What decides a job's result: it is done if a job of this fingerprint is."""
    return json.dumps([list(job.command[1:]), job.settings])
