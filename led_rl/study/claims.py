"""Claims and what the numbers say of them, by one rule.

A claim says that a figure of one cell is larger (or smaller) than that of another, or than 0. The difference, over the
same seeds and problems, has a 95 % interval and a p-value; the p-values of a table of claims are corrected together
(Holm).

    shown                  the corrected p-value is below 0.05 and the difference has the claimed sign
    refuted here           it is below 0.05 and the sign is the other one
    not shown at this n    otherwise; beside it stands the smallest true difference that so many seeds and problems
                           show with a power of 80 %, if no other claim of the table is true
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from led_rl.evaluation.estimates import Floats
from led_rl.evaluation.metrics import is_share
from led_rl.evaluation.significance import holm
from led_rl.study.cells import Cells, MissingCellError
from led_rl.study.crossed import crossed_mean
from led_rl.study.recipe import BASE, CHOSEN, Claim, Premise

LEVEL = 0.05
SHOWN, REFUTED, NOT_SHOWN, NOT_RUN = "shown", "refuted here", "not shown at this n", "not run yet"


def judge(claims: Sequence[Claim], cells: Cells, chosen: str | None = None) -> list[dict[str, Any]]:
    """Each claim with its difference first - second and the verdict, as plain values for a results file.

    Args:
        chosen: the cell that the word `chosen` stands for.
    """
    rows: list[dict[str, Any]] = []
    tested: list[tuple[dict[str, Any], Floats]] = []  # with the differences, (seeds, problems)
    for claim in claims:
        named = [(chosen or CHOSEN) if cell == CHOSEN else cell for cell in (claim.first, claim.second) if cell]
        row = {**claim.model_dump(), **dict(zip(("first", "second"), named, strict=False)), "verdict": NOT_RUN}
        rows.append(row)
        if CHOSEN in named:
            continue
        try:
            values = cells.values(named[0], claim.figure)
            if len(named) > 1:
                values = values - cells.values(named[1], claim.figure)
        except MissingCellError:
            continue
        row["seeds"] = 1 if all(cell.startswith(f"{BASE}/") for cell in named) else len(cells.seeds)
        row["samples_each"] = cells.samples
        tested.append((row, values[: row["seeds"]]))
    estimates = [
        crossed_mean(values, difference=True, bound=1.0 if is_share(row["figure"]) else None, tests=len(tested))
        for row, values in tested
    ]
    corrected = holm([math.nan if found.p_value is None else found.p_value for found in estimates])
    for (row, _), found, p_holm in zip(tested, estimates, corrected, strict=True):
        row["verdict"] = verdict(found.value, p_holm, row["expected"])
        row["estimate"] = plain(asdict(replace(found, p_holm=p_holm)))
    return rows


def verdict(difference: float, p_holm: float, expected: str) -> str:
    """By the rule above."""
    if math.isnan(p_holm) or p_holm >= LEVEL or difference == 0:
        return NOT_SHOWN
    return SHOWN if (difference > 0) == (expected == "larger") else REFUTED


def judge_premise(premise: Premise, analysis: Mapping[str, Any] | None) -> dict[str, Any]:
    """A premise with the figure that was read of the base model's layers.

    Its interval decides where there is one: shown if all of it lies on the stated side of the bound, refuted if all of
    it lies on the other. Figures of layers have no interval; there the value decides. Premises are not corrected.
    """
    row = {**premise.model_dump(), "verdict": NOT_RUN}
    if analysis is None:
        return row
    layer, _, measure = premise.figure.rpartition(" ")
    if layer:
        shares = analysis["layers"]["without_norm"][measure]
        at = [len(shares) - 1] if layer == "final" else analysis["latent_layers"]
        value = sum(shares[i] for i in at) / len(at)
        low = high = value
        row["estimate"] = {"value": value, "n": analysis["problems"]}
    else:
        found = (analysis["means"] | analysis["verdict"]["figures"])[measure]
        value, low, high = found["value"], found["low"], found["high"]
        row["estimate"] = {"value": value, "low": low, "high": high, "n": analysis["problems"]}
    above, below = premise.above, premise.below
    sides = [low > above, high < above] if above is not None else [high < (below or 0.0), low > (below or 0.0)]
    row["verdict"] = SHOWN if sides[0] else REFUTED if sides[1] else NOT_SHOWN
    return row


def choose(among: Sequence[str], figure: str, cells: Cells) -> str | None:
    """The cell with the largest mean, over problems with a figure in every cell; None until all have been run."""
    try:
        values = np.stack([cells.values(cell, figure) for cell in among])  # (cells, seeds, problems)
    except MissingCellError:
        return None
    known = values[:, :, ~np.isnan(values).any(axis=(0, 1))]
    return among[int(known.mean(axis=(1, 2)).argmax())] if known.size else among[0]


def plain(value: Any) -> Any:
    """JSON's values: what is not a number becomes null."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
