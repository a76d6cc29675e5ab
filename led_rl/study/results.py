"""The results file of a study: everything that its page shows, read from what the jobs recorded."""

import json
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from led_rl.evaluation.arms import sweeps
from led_rl.evaluation.estimates import Estimate, Floats
from led_rl.evaluation.metrics import is_share, shown_ks
from led_rl.study.cells import Cells, MissingCellError, histories, recorded_figures
from led_rl.study.claims import choose, judge, judge_premise, plain
from led_rl.study.crossed import crossed_mean
from led_rl.study.jobs import analysis_folder
from led_rl.study.ledger import read_attempts
from led_rl.study.recipe import BASE, Study

ENDS = 5  # a run's figures are averaged over the first and the last of so many parts of its steps
POINTS = 15  # of a run's curve; each is a mean over a slice of its steps
TRAINING_FIGURES = (
    "reward",
    "entropy",
    "led/entropy_final",
    "led/support_mass",
    "completions/mean_length",
    "step_time",
)


def results(study: Study, command: str, *, smoke: bool = False) -> dict[str, Any]:
    """What has been run so far, as plain values: tables, claims, costs."""
    recorded_figures.cache_clear()
    recipe = study.recipe
    seeds = recipe.train.seeds if recipe.train else [0]
    cells = Cells(study, recipe.problems.rows, seeds)
    analyses = _analyses(study)
    found: dict[str, Any] = {
        "name": study.name,
        "smoke": smoke,
        "command": command,
        "recipe": recipe.model_dump(exclude={"smoke"}),
        "seeds": len(seeds) if recipe.train else 0,
        "problems": recipe.problems.rows[1] - recipe.problems.rows[0],
        "premises": [judge_premise(premise, analyses.get(BASE)) for premise in recipe.premises],
        "claims": judge(recipe.claims, cells),
        "cells": _table(study, cells),
        "sweeps": _sweeps(study, cells),
        "training": _training(study, seeds),
        "layers": {label: _layers(analysis) for label, analysis in analyses.items()},
        "warm_up": _warm_up(study),
        "cost": _cost(study),
    }
    if recipe.confirm:
        chosen = choose(recipe.confirm.among, recipe.confirm.figure, cells)
        fresh = Cells(study, recipe.confirm.rows, recipe.confirm.seeds)
        found["confirmation"] = {"chosen": chosen, "claims": judge(recipe.confirm.claims, fresh, chosen)}
    return plain(found)


def write_results(folder: Path, found: dict[str, Any]) -> Path:
    """<folder>/<name>.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['name']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return path


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def _table(study: Study, cells: Cells) -> list[dict[str, Any]]:
    """A row for every cell that has been run: pass@k, lengths, speed."""
    most = study.recipe.evaluate.n
    rows = []
    for arm in (BASE, *study.training_arms):
        for decoding in study.decodings(arm):
            cell = f"{arm}/{decoding}"
            row: dict[str, Any] = {"arm": arm, "decoding": decoding}
            try:
                for figure in (*(f"pass@{k}" for k in shown_ks(range(1, most + 1))), "total_tokens"):
                    values = cells.values(cell, figure)
                    bound = 1.0 if is_share(figure) else None
                    row[figure] = _estimate(crossed_mean(values[:1] if arm == BASE else values, bound=bound))
                row["tokens_per_s"] = float(np.mean(cells.values(cell, "tokens_per_s")))
            except MissingCellError:
                continue
            rows.append(row)
    return rows


def _sweeps(study: Study, cells: Cells) -> list[dict[str, Any]]:
    """Slopes alpha of pass@k over temperature, for every sweep that has been run."""
    most, rows = study.recipe.evaluate.n, []
    for arm in (BASE, *study.training_arms):
        for sweep, temperatures in sweeps({name: study.arms[name] for name in study.decodings(arm)}).items():
            for k in shown_ks(range(1, most + 1)):
                try:
                    values = cells.values(f"{arm}/{sweep}", f"alpha pass@{k}")
                except MissingCellError:
                    continue
                alpha = crossed_mean(values[:1] if arm == BASE else values)
                rows.append(
                    {"arm": arm, "sweep": sweep, "temperatures": temperatures, "k": k, "alpha": _estimate(alpha)}
                )
    return rows


def _training(study: Study, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What the trainer logged: for each figure and run the means of the first and of the last steps, and its curve."""
    rows = []
    for arm in study.training_arms:
        runs = histories(study, arm, seeds)
        steps = max(1, min((max(entry["step"] for entry in run) for run in runs if run), default=0) // ENDS)
        for figure in TRAINING_FIGURES:
            logged = [
                [
                    (entry["step"], value)
                    for entry in run
                    if isinstance(value := entry.get(figure), int | float) and math.isfinite(value)
                ]
                for run in runs
            ]
            found = [np.array(pairs) for pairs in logged if pairs]
            if found:
                row = {
                    "steps": steps,
                    "first": [float(pairs[:steps, 1].mean()) for pairs in found],
                    "last": [float(pairs[-steps:, 1].mean()) for pairs in found],
                    "curves": [_curve(pairs) for pairs in found],
                }
                rows.append({"arm": arm, "figure": figure, **row})
    return rows


def _curve(pairs: Floats) -> list[list[float]]:
    """At most POINTS means of (step, figure), each over a slice of the run."""
    return [part.mean(axis=0).tolist() for part in np.array_split(pairs, min(POINTS, len(pairs)))]


def _analyses(study: Study) -> dict[str, Any]:
    path = analysis_folder(study) / "analysis.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _layers(analysis: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a model's layers."""
    kept = ("problems", "tokens", "k", "temperature", "latent_layers", "means", "layers", "verdict")
    return {key: analysis[key] for key in kept}


def _warm_up(study: Study) -> dict[str, Any] | None:
    path = Path(study.recipe.base) / "warmup.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _cost(study: Study) -> dict[str, Any]:
    """Seconds of all attempts by kind, the commits they ran at, and the machine that reads this."""
    rows = read_attempts(study.output)
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return {
        "seconds": {kind: round(sum(row["seconds"] for row in rows if row["kind"] == kind)) for kind in kinds},
        "jobs": {kind: sum(row["kind"] == kind and row["status"] == 0 for row in rows) for kind in kinds},
        "commits": list(dict.fromkeys(row["commit"] for row in rows if row["status"] == 0)),
        "ended": rows[-1]["ended"] if rows else None,
        "machine": f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.machine()}",
    }
