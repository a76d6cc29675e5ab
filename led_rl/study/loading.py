"""From a study's file to a checked recipe: what is wrong is said in one line before anything is run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from led_rl.evaluation.arms import parse_arms, sweeps
from led_rl.evaluation.layers.analysis import MEASURES, SCALARS
from led_rl.evaluation.metrics import shown_ks
from led_rl.evaluation.recipe import ALIASES, KEYS, EvaluationRecipe
from led_rl.evaluation.records import EvaluationError
from led_rl.recipe import RecipeError, checked, find_recipe, read_yaml
from led_rl.study.jobs import own_keys, read_problems
from led_rl.study.recipe import BASE, CHOSEN, Claim, Evaluation, Study, StudyRecipe, as_overrides
from rewards import RewardError, load_reward

STUDY_KEYS = ("seed", "output_dir", "run_name")  # of a training recipe, that each run has of its own
EVALUATION_KEYS = ("benchmarks", "seeds", "limit", "regrade")  # as little a study's to pass on as `own_keys`
WARM_UP_KEYS = ("model_name_or_path", "dataset")
OTHER_FIGURES = ("reward", "truncated", "thinking_tokens", "answer_tokens", "total_tokens")


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
        if not isinstance(values.get("smoke"), dict) or not values["smoke"]:
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
    if (recipe.warmup is None and runs_here) or Path(recipe.problems.file).is_file():
        read_problems(study)
    _check_evaluation(study)
    _check_training(study, {} if runs_here else {"use_cpu": True, "bf16": False})
    _check_cells(study)
    return study


def _sampling(evaluation: Evaluation) -> dict[str, Any]:
    """What the evaluation's arms have unless they say otherwise."""
    given = {key: getattr(evaluation, key) for key in ("temperature", "max_tokens", "depth", "k")}
    return {"top_p": 1.0, "top_k": 0, "min_p": 0.0} | given


def _put(path: Path, values: dict[str, Any], key: str, value: Any) -> None:
    """Sets `a.b.c` in nested mappings."""
    *parents, last = str(key).split(".")
    for parent in parents:
        if not isinstance(values.get(parent), dict):
            raise RecipeError(f"{path}: smoke: {key!r} names no key of this recipe ({parent!r} is not there)")
        values = values[parent]
    values[last] = value


def _first_of(error: ValidationError) -> str:
    details = error.errors()  # a key that is not known may be the one that is missing
    detail = next((each for each in details if each["type"] == "extra_forbidden"), details[0])
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        part: Any = StudyRecipe
        for step in (step for step in detail["loc"][:-1] if isinstance(step, str)):
            options = [] if not (part and hasattr(part, "model_fields")) else _models(part.model_fields[step])
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
        if first + 2 > end:
            raise RecipeError(f"{study.path}: {key}: expected [first, end) of two rows or more, got [{first}, {end}]")
    if study.recipe.confirm:
        (a, b), (c, d) = rows.values()
        if a < d and c < b:
            raise RecipeError(
                f"{study.path}: confirm.rows: expected rows that problems.rows [{a}, {b}] does not hold, got [{c}, {d}]"
            )
    (first, end), analyse = study.recipe.problems.rows, study.recipe.analyse
    if analyse and analyse.problems > end - first:
        raise RecipeError(f"{study.path}: analyse.problems: expected at most {end - first}, got {analyse.problems}")
    of_model = (*SCALARS, "gain")
    for premise in study.recipe.premises:
        layer, _, measure = premise.figure.rpartition(" ")
        if (layer not in ("final", "latent") or measure not in MEASURES) if layer else measure not in of_model:
            raise RecipeError(
                f"{study.path}: premises: no figure is called {premise.figure!r}; figures: {', '.join(of_model)}, and "
                f"`final` or `latent` before {', '.join(MEASURES)}"
            )
        if (premise.above is None) == (premise.below is None):
            raise RecipeError(f"{study.path}: premises: {premise.figure!r}: give `above` or `below`")
    if study.recipe.premises and not study.recipe.analyse:
        raise RecipeError(f"{study.path}: premises: they need `analyse`, which reads the layers")


def _check_evaluation(study: Study) -> None:
    """The keys of an evaluation's recipe that the study passes on, and the reward."""
    recipe = study.recipe
    own = own_keys(study, BASE, recipe.problems.rows, list(study.arms))
    further = {"problems.columns": recipe.problems.columns, "evaluate.options": recipe.evaluate.options}
    values = dict(own)
    for where, given in further.items():
        for key, value in given.items():
            if key in own or key in EVALUATION_KEYS or key in ALIASES:
                raise RecipeError(f"{study.path}: {where}: {key!r} is decided by the study itself; leave it out")
            values[key] = checked(f"{study.path}: {where}", key, value, KEYS, "see led-rl evaluate --help for all keys")
    try:
        EvaluationRecipe(**values)
        load_reward(recipe.problems.reward, **(recipe.problems.columns.get("reward_options") or {}))
    except (EvaluationError, RewardError) as error:
        raise RecipeError(f"{study.path}: evaluate: {error}") from error


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
    for where, values in (("overrides", training.overrides), *((f"arms.{a}", v) for a, v in training.arms.items())):
        for key in values:
            if key in STUDY_KEYS or (study.recipe.warmup and key in WARM_UP_KEYS):
                raise RecipeError(f"{study.path}: train.{where}: {key!r} is decided by the study itself; leave it out")
            if "-" in str(key):
                raise RecipeError(f"{study.path}: train.{where}: unknown key {key!r}; keys are written with `_`")
    # Rows that the warm-up has yet to write cannot be looked for; any hub id stands for them.
    rows = {"dataset": "made/later"} if study.recipe.warmup else {}
    for name, values in training.arms.items():
        if "/" in name or not name:
            raise RecipeError(f"{study.path}: train.arms: expected a name without `/`, got {name!r}")
        try:
            with _said_of(f"{study.path}: train.arms.{name}", silent=bool(instead)):
                load_recipe([path, *as_overrides(training.overrides | values | rows)], instead)
        except RecipeError as error:
            raise RecipeError(f"{study.path}: train.arms.{name}: {error}") from error


@contextmanager
def _said_of(what: str, *, silent: bool) -> Iterator[None]:
    """Warnings about keys of training say what they are about; `silent`: nothing will be trained, so none are said."""
    logger = logging.getLogger("led_rl.training.config")

    def name(record: logging.LogRecord) -> bool:
        record.msg = f"{what}: {record.msg}"
        return not silent

    logger.addFilter(name)
    try:
        yield
    finally:
        logger.removeFilter(name)


def _check_cells(study: Study) -> None:
    """Every cell of a claim is run, and every figure is one that exists."""
    recipe = study.recipe
    for pattern, names in recipe.evaluate.only.items():
        if not any(fnmatchcase(arm, pattern) for arm in (BASE, *study.training_arms)):
            raise RecipeError(
                f"{study.path}: evaluate.only: {pattern!r} matches no model; models: {BASE}, "
                + ", ".join(study.training_arms)
            )
        if len(set(names)) < len(names):
            raise RecipeError(f"{study.path}: evaluate.only: {pattern!r}: each decoding may stand once, got {names}")
        if unknown := [name for name in names if name not in study.arms]:
            raise RecipeError(
                f"{study.path}: evaluate.only: {pattern!r}: no decoding is called {unknown[0]!r}; decodings: "
                + ", ".join(study.arms)
            )
    claims: list[tuple[str, Claim]] = [(f"claims.{i}", claim) for i, claim in enumerate(recipe.claims)]
    if recipe.confirm:
        for candidate in recipe.confirm.among:
            _check_cell(study, "confirm.among", candidate, recipe.confirm.figure)
        claims += [(f"confirm.claims.{i}", claim) for i, claim in enumerate(recipe.confirm.claims)]
    for where, claim in claims:
        if claim.first == claim.second:
            raise RecipeError(f"{study.path}: {where}: {claim.first!r} is compared with itself")
        for cell in (claim.first, claim.second):
            chosen = recipe.confirm.among if recipe.confirm and where.startswith("confirm") else []
            for one in chosen if chosen and cell == CHOSEN else [cell] if cell is not None else []:
                _check_cell(study, where, one, claim.figure)


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
