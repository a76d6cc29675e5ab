"""Accuracy against temperature: the slope alpha for pass@1 and pass@n, where arms differ in temperature alone.

A slope of pass@n at or below zero is what the LED paper (arXiv 2602.01698) calls exploration collapse: a higher
temperature buys no diversity.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from led_rl.evaluation.estimates import Estimate, Floats, mean_interval
from led_rl.evaluation.metrics import per_problem, shown_ks
from led_rl.evaluation.rows import Record


@dataclass(frozen=True)
class Slope:
    """Change of pass@k per unit of temperature, by least squares over the temperatures; `alpha.n` counts problems."""

    checkpoint: str
    benchmark: str
    sweep: str
    k: int
    temperatures: list[float]
    alpha: Estimate


def slopes(records: Iterable[Record], sweeps: Mapping[str, Mapping[str, float]]) -> list[Slope]:
    """The slopes of every sweep (arms.sweeps) on every checkpoint and benchmark that has two temperatures or more.

    The least-squares slope is a weighted sum of the accuracies at each temperature, so it is a mean over problems and
    its interval is a bootstrap over problems.
    """
    cells: dict[tuple[str, str], dict[str, dict[str, Record]]] = {}
    for record in records:
        if record["kind"] == "problem":
            arms = cells.setdefault((record["checkpoint"], record.get("benchmark", "")), {})
            arms.setdefault(record["arm"], {})[record["problem"]] = record
    found = []
    for (checkpoint, benchmark), arms in cells.items():
        for name, temperatures in sweeps.items():
            there = {arm: t for arm, t in temperatures.items() if arm in arms}
            if len(set(there.values())) > 1:
                found += _slopes(checkpoint, benchmark, name, there, [arms[arm] for arm in there])
    return found


def _slopes(
    checkpoint: str, benchmark: str, name: str, temperatures: Mapping[str, float], arms: Sequence[dict[str, Record]]
) -> list[Slope]:
    shared = [problem for problem in arms[0] if all(problem in arm for arm in arms)]
    figures = [per_problem([arm[problem] for problem in shared]) for arm in arms]
    ks = shown_ks(int(key[5:]) for key in figures[0] if key.startswith("pass@") and all(key in f for f in figures))
    return [
        Slope(
            checkpoint,
            benchmark,
            name,
            k,
            sorted(set(temperatures.values())),
            mean_interval(slope_by_problem(temperatures.values(), [each[f"pass@{k}"] for each in figures])),
        )
        for k in dict.fromkeys((1, ks[-1]) if ks else ())
    ]


def slope_by_problem(temperatures: Iterable[float], figures: Sequence[Floats]) -> Floats:
    """(problems,) least-squares slopes over temperature; figures: (problems,) at each temperature.

    The mean of them is the slope of the mean. Equal figures have a slope of exactly 0.
    """
    t, values = np.array(list(temperatures)), np.stack(figures)  # (temperatures,), (temperatures, problems)
    weights = (t - t.mean()) / ((t - t.mean()) ** 2).sum()
    slopes: Floats = weights @ (values - values[0])  # the weights' sum is 0 but for rounding
    return slopes


def write_slopes(folder: str | Path, found: Sequence[Slope]) -> Path:
    """slopes.json in the folder."""
    path = Path(folder) / "slopes.json"
    path.write_text(json.dumps([asdict(slope) for slope in found], indent=1) + "\n", encoding="utf-8")
    return path
