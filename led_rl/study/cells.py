"""The recorded figures of a study, by cell: one value for each seed and problem."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from led_rl.evaluation.arms import sweeps
from led_rl.evaluation.estimates import Floats
from led_rl.evaluation.metrics import per_problem, shown_ks
from led_rl.evaluation.records import RECORDS, Record, read_records
from led_rl.evaluation.slopes import slope_by_problem
from led_rl.study.jobs import evaluation_folder, label, model_folder
from led_rl.study.recipe import BASE, Study

ALPHA = "alpha "


class MissingCellError(LookupError):
    """A cell that has not been run yet."""


class Cells:
    """What has been recorded on some rows of problems, with some seeds."""

    def __init__(self, study: Study, rows: tuple[int, int], seeds: Sequence[int]):
        self._study, self._rows, self.seeds = study, rows, list(seeds)
        self.samples = study.recipe.evaluate.n

    def values(self, cell: str, figure: str) -> Floats:
        """(seeds, problems); the base model's one row stands for every seed.

        `alpha FIGURE` is the least-squares slope of a figure over temperature, whose decoding is a sweep: a weighted
        sum of the figures at each temperature, so that it has a value for each problem, too.

        Raises:
            MissingCellError: names what has not been run.
        """
        arm, _, decoding = cell.partition("/")
        labels = [BASE] * len(self.seeds) if arm == BASE else [label(arm, seed) for seed in self.seeds]
        return np.stack([self._one(name, arm, decoding, figure) for name in labels])

    def _one(self, name: str, arm: str, decoding: str, figure: str) -> Floats:
        recorded = recorded_figures(evaluation_folder(self._study, name, self._rows), self._study.recipe.evaluate.n)
        if figure.startswith(ALPHA):
            of_arm = {key: self._study.arms[key] for key in self._study.decodings(arm)}
            temperatures = sweeps(of_arm)[decoding]
            figures = [_of(recorded, name, key, figure.removeprefix(ALPHA)) for key in temperatures]
            return slope_by_problem(temperatures.values(), figures)
        return _of(recorded, name, decoding, figure)

    def known(self, cell: str) -> bool:
        """Whether a cell has been run with every seed."""
        try:
            self.values(cell, "pass@1")
        except MissingCellError:
            return False
        return True


def _of(recorded: Mapping[str, Mapping[str, Floats]], name: str, decoding: str, figure: str) -> Floats:
    if decoding not in recorded:
        raise MissingCellError(f"{name}/{decoding}")
    return recorded[decoding][figure]


@cache
def recorded_figures(folder: Path, samples: int) -> dict[str, dict[str, Floats]]:
    """Decoding -> figures by problem (evaluation/metrics.py), and `tokens_per_s` of its timed blocks, of a finished
    evaluation; nothing of one that is not there or not finished."""
    if not (folder / "summary.json").is_file() or not (folder / RECORDS).is_file():
        return {}
    by_decoding: dict[str, dict[str, Record]] = {}
    timed: dict[str, list[Record]] = {}
    for row in read_records(folder):
        if row["kind"] == "problem":
            by_decoding.setdefault(row["arm"], {})[row["problem"]] = row
        elif row["wall_s"] is not None:
            timed.setdefault(row["arm"], []).append(row)
    found = {}
    for decoding, problems in by_decoding.items():
        rows = [problems[problem] for problem in sorted(problems, key=_number)]
        figures = per_problem(rows, shown_ks(range(1, samples + 1)))
        blocks = timed.get(decoding, [])
        wall = sum(row["wall_s"] for row in blocks)
        figures["tokens_per_s"] = np.array([sum(row["tokens"] for row in blocks) / wall if wall else np.nan])
        found[decoding] = figures
    return found


def _number(problem: str) -> tuple[int, str]:
    return (int(problem), "") if problem.isdecimal() else (0, problem)


def histories(study: Study, arm: str, seeds: Sequence[int]) -> list[list[dict[str, Any]]]:
    """The trainer's logs of an arm's finished runs."""
    files = [Path(model_folder(study, label(arm, seed))) / "trainer_state.json" for seed in seeds]
    return [json.loads(file.read_text(encoding="utf-8"))["log_history"] for file in files if file.is_file()]
