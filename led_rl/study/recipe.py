"""The recipe of a study: a model, training arms x seeds, decodings, claims; checked before anything is run.

A **cell** is a model under a decoding, `TRAINING ARM/DECODING`: `led/led T 0.6` is the model trained with arm `led`,
sampled with the evaluation's arm `led T 0.6`, and `base/...` the model before training. A figure of a cell has one
value for each seed and problem, so that claims about cells are paired by both.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from led_rl.evaluation.arms import Arm, parse_arms, sweeps
from led_rl.evaluation.layers.analysis import MEASURES, SCALARS
from led_rl.evaluation.metrics import shown_ks
from led_rl.evaluation.records import EvaluationError
from led_rl.recipe import RecipeError, find_recipe, read_yaml

OTHER_FIGURES = ("reward", "truncated", "thinking_tokens", "answer_tokens", "total_tokens")
BASE, CHOSEN = "base", "chosen"
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WarmUp(_Part):
    """How the base model is made from random weights (python -m led_rl.toy.warmup)."""

    task: str = "countdown"
    shape: str = "quickstart"
    steps: Count = 1200
    seed: int = 0
    learning_rate: float = 2.5e-3
    layer_dropout: float = 0.0


class Problems(_Part):
    """Held-out problems: rows [first, end) of a JSONL file, and the reward that judges them."""

    file: str
    reward: str
    rows: tuple[int, int]
    columns: dict[str, Any] = {}  # further keys of an evaluation: problem_column, answer_column, reward_options


class Training(_Part):
    """Every arm with every seed: the training recipe, with the overrides of all arms and then the arm's own."""

    recipe: str
    arms: dict[str, dict[str, Any]]
    seeds: list[int] = Field(min_length=1)
    overrides: dict[str, Any] = {}
    launch: list[str] = []  # words before train.py, `accelerate launch ...`; none: this Python


class Evaluation(_Part):
    """How each model is sampled; `only`: pattern of training arms -> the decodings they are sampled with."""

    arms: list[Any]
    n: Count
    temperature: float = 1.0
    max_tokens: Count
    depth: Count = 8
    k: Count = 8
    only: dict[str, list[str]] = {}
    options: dict[str, Any] = {}  # further keys of an evaluation: max_num_seqs, engine, dtype, ...


class Analysis(_Part):
    """What `led-rl analyse` reads of the base and of every trained model, all on the base's own thoughts."""

    problems: Count
    n: Count = 4
    temperature: float = 1.0
    max_tokens: Count
    depth: Count = 8
    k: Count = 8


class Claim(_Part):
    """`figure` of the first cell is larger (or smaller) than that of the second, or than 0 where none is named."""

    text: str
    figure: str  # pass@K, `alpha pass@K` (its slope over temperature), total_tokens, ...
    first: str
    second: str | None = None
    expected: Literal["larger", "smaller"] = "larger"


class Premise(_Part):
    """A figure of the analysis of a model before training lies above (or below) a bound."""

    text: str
    figure: str  # of analysis.json's `means`, or `LAYER FIGURE`: final top2, latent candidate_mass
    above: float | None = None
    below: float | None = None


class Confirmation(_Part):
    """The best cell of a screening, by its mean figure, is tested again with fresh seeds on fresh problems."""

    among: list[str] = Field(min_length=1)
    figure: str
    rows: tuple[int, int]
    seeds: list[int] = Field(min_length=1)
    claims: list[Claim] = Field(min_length=1)  # `chosen` names the chosen cell


class Budget(_Part):
    """Seconds that parts of the study were measured to take, on `machine`."""

    machine: str
    warmup_step_s: Seconds = 0
    train_start_s: Seconds = 0
    train_step_s: Seconds = 0
    evaluate_start_s: Seconds = 0
    completion_s: Seconds = 0
    analyse_s: Seconds = 0


class StudyRecipe(_Part):
    """A study."""

    title: str
    question: str
    method: str
    base: str
    warmup: WarmUp | None = None
    problems: Problems
    train: Training | None = None
    evaluate: Evaluation
    analyse: Analysis | None = None
    premises: list[Premise] = []
    claims: list[Claim] = []
    confirm: Confirmation | None = None
    budget: Budget
    unproven: str = ""  # what of this recipe has never been run
    output: str = ""
    smoke: dict[str, Any] = {}  # dotted keys -> values of the smallest size, for a test of the whole path


@dataclasses.dataclass(frozen=True)
class Study:
    """A checked recipe."""

    name: str
    path: Path
    recipe: StudyRecipe
    arms: dict[str, Arm]  # the evaluation's, by name

    @property
    def output(self) -> Path:
        return Path(self.recipe.output)

    @property
    def training_arms(self) -> dict[str, dict[str, Any]]:
        return self.recipe.train.arms if self.recipe.train else {}

    def decodings(self, training_arm: str) -> list[str]:
        """Names of the evaluation's arms that a training arm's models are sampled with."""
        for pattern, names in self.recipe.evaluate.only.items():
            if fnmatchcase(training_arm, pattern):
                return names
        return list(self.arms)


def load_study(path: str, *, smoke: bool = False, output: str | None = None, runs_here: bool = True) -> Study:
    """The study of a recipe file.

    Args:
        smoke: with the values of the recipe's `smoke`.
        output: folder of the runs; default: the recipe's, or runs/study/<name>.
        runs_here: False: nothing will be trained, so that a recipe for a GPU can be read without one.

    Raises:
        RecipeError: names the file, the key, what was given and what is allowed.
    """
    found = find_recipe(path)
    name = found.stem.removeprefix("study_")
    values = read_yaml(found)
    if smoke:
        if not values.get("smoke"):
            raise RecipeError(f"{found}: smoke is missing: the values of the smallest size, `train.seeds: [0]`, say")
        for key, value in values["smoke"].items():
            _put(found, values, key, value)
    if output:
        values["output"] = output
    values.setdefault("output", f"runs/study/{name}")
    try:
        recipe = StudyRecipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{found}: {_first_of(error)}") from error
    try:
        arms = parse_arms(recipe.evaluate.arms, _sampling(recipe.evaluate))
    except EvaluationError as error:
        raise RecipeError(f"{found}: evaluate.arms: {error}") from error
    study = Study(name, found, recipe, arms)
    _check_rows(study)
    _check_training(study, {} if runs_here else {"use_cpu": True, "bf16": False})
    _check_cells(study)
    return study


def _sampling(evaluation: Evaluation) -> dict[str, Any]:
    """What the evaluation's arms have unless they say otherwise."""
    given = {key: getattr(evaluation, key) for key in ("temperature", "max_tokens", "depth", "k")}
    return {"top_p": 1.0, "top_k": 0, "min_p": 0.0} | given


def _put(path: Path, values: dict[str, Any], key: str, value: Any) -> None:
    """Sets `a.b.c` in nested mappings."""
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            raise RecipeError(f"{path}: smoke: {key!r} names no key of this recipe ({parent!r} is not there)")
        values = values[parent]
    values[last] = value


def _first_of(error: ValidationError) -> str:
    detail = error.errors()[0]
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        part: Any = StudyRecipe
        for step in detail["loc"][:-1]:
            options = [] if not (part and hasattr(part, "model_fields")) else _models(part.model_fields[str(step)])
            part = options[0] if options else None
        allowed = f"; allowed: {', '.join(part.model_fields)}" if part else ""
        return f"unknown key {key!r}{allowed}"
    given = "" if detail["type"] == "missing" else f", got {detail['input']!r}"
    return f"key {key!r}: {detail['msg'].lower()}{given}"


def _models(field: Any) -> list[Any]:
    """The parts of a recipe that a field's annotation names."""
    kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _check_rows(study: Study) -> None:
    rows = {"problems.rows": study.recipe.problems.rows}
    if study.recipe.confirm:
        rows["confirm.rows"] = study.recipe.confirm.rows
    for key, (first, end) in rows.items():
        if not 0 <= first < end:
            raise RecipeError(f"{study.path}: {key}: expected [first, end) with 0 <= first < end, got [{first}, {end}]")
    if study.recipe.confirm:
        (a, b), (c, d) = rows.values()
        if a < d and c < b:
            raise RecipeError(
                f"{study.path}: confirm.rows: expected rows that problems.rows [{a}, {b}] does not hold, got [{c}, {d}]"
            )
    for premise in study.recipe.premises:
        layer, _, measure = premise.figure.rpartition(" ")
        if (layer not in ("final", "latent") or measure not in MEASURES) if layer else measure not in SCALARS:
            raise RecipeError(
                f"{study.path}: premises: no figure is called {premise.figure!r}; figures: {', '.join(SCALARS)}, and "
                f"`final` or `latent` before {', '.join(MEASURES)}"
            )
        if (premise.above is None) == (premise.below is None):
            raise RecipeError(f"{study.path}: premises: {premise.figure!r}: give `above` or `below`")
    if study.recipe.premises and not study.recipe.analyse:
        raise RecipeError(f"{study.path}: premises: they need `analyse`, which reads the layers")


def _check_training(study: Study, instead: dict[str, Any]) -> None:
    """Every arm's keys and values are those of a training recipe, with `instead` in their place."""
    training = study.recipe.train
    if training is None:
        return
    from led_rl.training.recipe import load_recipe  # imports TRL

    for reserved in (BASE, CHOSEN):
        if reserved in training.arms:
            raise RecipeError(f"{study.path}: train.arms: {reserved!r} names something else; call the arm otherwise")
    seeds = [*training.seeds, *(study.recipe.confirm.seeds if study.recipe.confirm else [])]
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"{study.path}: train.seeds and confirm.seeds: each seed may stand once, got {seeds}")
    try:
        path = str(find_recipe(training.recipe))
    except RecipeError as error:
        raise RecipeError(f"{study.path}: train.recipe: {error}") from error
    # Rows that the warm-up has yet to write cannot be looked for; any hub id stands for them.
    rows = {"dataset": "made/later"} if study.recipe.warmup else {}
    for name, values in training.arms.items():
        if "/" in name or not name:
            raise RecipeError(f"{study.path}: train.arms: expected a name without `/`, got {name!r}")
        try:
            load_recipe([path, *as_overrides(training.overrides | values | rows)], instead)
        except RecipeError as error:
            raise RecipeError(f"{study.path}: train.arms.{name}: {error}") from error


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """`--key value` words for led_rl/train.py."""
    return [
        word
        for key, value in values.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]


def _check_cells(study: Study) -> None:
    """Every cell of a claim is run, and every figure is one that exists."""
    recipe = study.recipe
    claims: list[tuple[str, Claim]] = [(f"claims.{i}", claim) for i, claim in enumerate(recipe.claims)]
    if recipe.confirm:
        for candidate in recipe.confirm.among:
            _check_cell(study, "confirm.among", candidate, recipe.confirm.figure)
        claims += [(f"confirm.claims.{i}", claim) for i, claim in enumerate(recipe.confirm.claims)]
    for where, claim in claims:
        for cell in (claim.first, claim.second):
            if cell is not None and not (cell == CHOSEN and where.startswith("confirm")):
                _check_cell(study, where, cell, claim.figure)
    for pattern, names in recipe.evaluate.only.items():
        if unknown := [name for name in names if name not in study.arms]:
            raise RecipeError(
                f"{study.path}: evaluate.only: {pattern!r}: no decoding is called {unknown[0]!r}; decodings: "
                + ", ".join(study.arms)
            )


def _check_cell(study: Study, where: str, cell: str, figure: str) -> None:
    training_arm, _, decoding = cell.partition("/")
    known = [BASE, *study.training_arms]
    if training_arm not in known:
        raise RecipeError(f"{study.path}: {where}: {cell!r}: no training arm is called {training_arm!r}; arms: {known}")
    names = study.decodings(training_arm)
    if figure.startswith("alpha "):
        of_sweeps = list(sweeps({name: study.arms[name] for name in names}))
        if decoding not in of_sweeps:
            raise RecipeError(
                f"{study.path}: {where}: {cell!r}: {decoding!r} has one temperature; those with several: {of_sweeps}"
            )
    elif decoding not in names:
        raise RecipeError(f"{study.path}: {where}: {cell!r}: no decoding is called {decoding!r}; decodings: {names}")
    passes = [f"pass@{k}" for k in shown_ks(range(1, study.recipe.evaluate.n + 1))]
    if figure.removeprefix("alpha ") not in (allowed := [*passes, *OTHER_FIGURES]):
        raise RecipeError(
            f"{study.path}: {where}: no figure is called {figure!r}; figures: {', '.join(allowed)}, and `alpha FIGURE`"
        )


def needed_in_confirmation(study: Study, chosen: str) -> Sequence[str]:
    """Cells that the confirmation's claims name, with the chosen one in place."""
    claims = study.recipe.confirm.claims if study.recipe.confirm else []
    named = [cell for claim in claims for cell in (claim.first, claim.second) if cell is not None]
    return list(dict.fromkeys(chosen if cell == CHOSEN else cell for cell in named))
