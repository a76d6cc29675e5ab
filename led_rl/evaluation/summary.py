"""From evaluation records to a table: every figure with its interval and n, and paired differences of decodings."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from led_rl.evaluation.estimates import (
    UNKNOWN,
    Estimate,
    Floats,
    mean_interval,
    mean_of_means,
    paired_difference,
    proportion_interval,
    ratio_difference,
    ratio_interval,
)
from led_rl.evaluation.metrics import is_share, per_problem, shown_ks
from led_rl.evaluation.rows import Record
from led_rl.evaluation.significance import holm

ARM_COMPARISONS = (("led", "standard"), ("led", "top_k_control"))
MINUS = " − "
MEAN = "mean"  # of several benchmarks
NOT_TESTED = ("_finished", "_correct")  # lengths of other completions on either side: no paired comparison


@dataclass(frozen=True)
class SummaryRow:
    """Figures of one checkpoint under one arm on a benchmark, or of a paired difference between two such.

    `metrics`, over problems: those of metrics.py (shares of 1, means per completion); over chunks: `wall_s` (seconds
    for all problems), `tokens_per_s`. The `n` of each `Estimate` counts those problems or chunks.
    """

    checkpoint: str
    arm: str
    metrics: dict[str, Estimate]
    problems: int
    samples: int
    unusable: int  # samples without a reward: left out of pass@k and reward
    compares: Literal["arms", "checkpoints"] | None = None  # what a difference is between
    benchmark: str = ""  # MEAN: of all benchmarks, each with the same weight

    @property
    def is_difference(self) -> bool:
        """Whether the figures are of a paired difference."""
        return self.compares is not None


def summarise(
    records: Iterable[Record],
    *,
    ks: Sequence[int] | None = None,
    arm_comparisons: Sequence[tuple[str, str]] = ARM_COMPARISONS,
    checkpoint_comparisons: Sequence[tuple[str, str]] = (),
    order: Sequence[str] = (),
    seed: int = 0,
) -> list[SummaryRow]:
    """For each benchmark one row per checkpoint and arm, then the paired differences first - second that are there.

    Several benchmarks are followed by rows of their mean. P-values are corrected (Holm) over all differences returned.

    Args:
        ks: of pass@k; by default all up to the number of samples.
        arm_comparisons: pairs of arms, compared for every checkpoint.
        checkpoint_comparisons: pairs of checkpoints, compared under every arm.
        order: of arms; those that it lacks come as they were recorded.
    """
    by_benchmark: dict[str, dict[tuple[str, str], _Cell]] = {}
    for record in records:
        cells = by_benchmark.setdefault(record.get("benchmark", ""), {})
        cell = cells.setdefault((record["checkpoint"], record["arm"]), _Cell({}, {}))
        if record["kind"] == "problem":
            cell.problems[record["problem"]] = record
        elif record["wall_s"] is not None:  # else the block was interrupted or ran beside others
            cell.chunks[record["chunk"]] = record
    for cells in by_benchmark.values():
        for cell in cells.values():
            cell.figures = per_problem(list(cell.problems.values()), ks)
    place = {arm: i for i, arm in enumerate(order)}
    by_benchmark = {
        name: dict(sorted(cells.items(), key=lambda item: place.get(item[0][1], len(place))))
        for name, cells in by_benchmark.items()
    }
    rows = []
    for name, cells in by_benchmark.items():
        made = [_figures(key, cell, seed) for key, cell in cells.items()]
        pairs = _pairs(cells, arm_comparisons, checkpoint_comparisons)
        made += [_difference(a, b, cells, seed) for a, b in pairs]
        rows += [replace(row, benchmark=name) for row in made]
    if len(by_benchmark) > 1:
        rows += _means(by_benchmark, arm_comparisons, checkpoint_comparisons, seed)
    return corrected(rows)


def write_summary(folder: str | Path, rows: Sequence[SummaryRow]) -> Path:
    """summary.json in the folder; what is not estimable is null."""
    path = Path(folder) / "summary.json"
    path.write_text(json.dumps([_without_nan(asdict(row)) for row in rows], indent=1) + "\n", encoding="utf-8")
    return path


def pass_ks(rows: Sequence[SummaryRow]) -> list[int]:
    """The k to show of the pass@k that all rows have: powers of two and the largest, ascending."""
    found = [{int(name[5:]) for name in row.metrics if name.startswith("pass@")} for row in rows]
    return shown_ks(set.intersection(*found)) if found else []


def figures_tested(row: SummaryRow) -> list[str]:
    """The figures of a difference that are shown with a test: pass@1, pass@n, majority@n, lengths, truncation."""
    names = [name for name, estimate in row.metrics.items() if estimate.p_value is not None]
    last = {
        kind: max((int(n.split("@")[1]) for n in names if n.startswith(kind)), default=0) for kind in ("pass", "maj")
    }
    kept = {"pass@1", f"pass@{last['pass']}", f"majority@{last['maj']}"}
    names = [name for name in names if name in kept or "@" not in name]
    same = row.metrics.get("reward"), row.metrics.get("pass@1")
    if same[0] is not None and same[1] is not None and same[0].value == same[1].value:
        names.remove("reward")  # rewards of 0 and 1 say the same as pass@1
    return names


def corrected(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """The rows with Holm's correction over every test that is shown (`figures_tested`) in any of them."""
    places = [(i, name) for i, row in enumerate(rows) if row.is_difference for name in figures_tested(row)]
    p_values = holm([_known(rows[i].metrics[name].p_value) for i, name in places])
    metrics = [dict(row.metrics) for row in rows]
    for (i, name), p_value in zip(places, p_values, strict=True):
        metrics[i][name] = replace(metrics[i][name], p_holm=p_value)
    return [replace(row, metrics=found) for row, found in zip(rows, metrics, strict=True)]


def _known(p_value: float | None) -> float:
    return math.nan if p_value is None else p_value


@dataclass
class _Cell:
    """Records of one checkpoint under one arm: problem rows by problem, chunk rows by chunk, figures by problem."""

    problems: dict[str, Record]
    chunks: dict[int, Record]
    figures: Mapping[str, Floats] | None = None

    def of(self, problems: Sequence[str]) -> dict[str, Floats]:
        """The figures of these problems, in their order."""
        place = {problem: i for i, problem in enumerate(self.problems)}
        index = [place[problem] for problem in problems]
        return {name: values[index] for name, values in (self.figures or {}).items()}


Key = tuple[str, str]  # checkpoint, arm


def _pairs(cells: Mapping[Key, Any], arms: Sequence[Key], checkpoints: Sequence[Key]) -> list[tuple[Key, Key]]:
    labels, names = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    pairs = [((label, a), (label, b)) for label in labels for a, b in arms]
    pairs += [((a, name), (b, name)) for a, b in checkpoints for name in names]
    return [(a, b) for a, b in pairs if a in cells and b in cells]


def _figures(key: Key, cell: _Cell, seed: int) -> SummaryRow:
    metrics: dict[str, Estimate] = {}
    for name, values in (cell.figures or {}).items():
        metrics[name] = proportion_interval(values, seed=seed) if is_share(name) else mean_interval(values, seed=seed)
    wall, tokens, problems = _per_chunk(list(cell.chunks.values()))
    per_chunk_problem = ratio_interval(wall, problems, seed=seed)
    metrics["wall_s"] = _scaled(per_chunk_problem, len(cell.problems))
    metrics["tokens_per_s"] = ratio_interval(tokens, wall, seed=seed)
    return SummaryRow(*key, metrics, *_counts(cell.problems.values()))


def _difference(a: Key, b: Key, cells: Mapping[Key, _Cell], seed: int) -> SummaryRow:
    """a - b on the problems and chunks that both have."""
    shared = [problem for problem in cells[a].problems if problem in cells[b].problems]
    figures_a, figures_b = cells[a].of(shared), cells[b].of(shared)
    metrics = {
        name: paired_difference(figures_a[name], figures_b[name], bound=1.0 if is_share(name) else None, seed=seed)
        for name in figures_a
        if name in figures_b and not name.endswith(NOT_TESTED)
    }
    chunks = [chunk for chunk in cells[a].chunks if chunk in cells[b].chunks]
    (wall_a, tokens_a, problems), (wall_b, tokens_b, _) = (
        _per_chunk([cells[key].chunks[chunk] for chunk in chunks]) for key in (a, b)
    )
    metrics["wall_s"] = _scaled(ratio_difference((wall_a, problems), (wall_b, problems), seed=seed), len(shared))
    metrics["tokens_per_s"] = ratio_difference((tokens_a, wall_a), (tokens_b, wall_b), seed=seed)
    rows = [cells[key].problems[problem] for key in (a, b) for problem in shared]
    return SummaryRow(*_names(a, b), metrics, *_counts(rows), _kind(a, b))


def _means(
    by_benchmark: Mapping[str, Mapping[Key, _Cell]], arms: Sequence[Key], checkpoints: Sequence[Key], seed: int
) -> list[SummaryRow]:
    """The mean of all benchmarks, for what ran on all of them."""
    everywhere = [key for key in next(iter(by_benchmark.values())) if all(key in c for c in by_benchmark.values())]
    rows = []
    for key in everywhere:
        cells = [cells[key] for cells in by_benchmark.values()]
        metrics = _each_mean([cell.figures or {} for cell in cells], seed)
        counts = [_counts(cell.problems.values()) for cell in cells]
        rows.append(SummaryRow(*key, metrics, *_added(counts), benchmark=MEAN))
    for a, b in _pairs(dict.fromkeys(everywhere), arms, checkpoints):
        differences, counts = [], []
        for cells_of in by_benchmark.values():
            shared = [problem for problem in cells_of[a].problems if problem in cells_of[b].problems]
            left, right = cells_of[a].of(shared), cells_of[b].of(shared)
            names = [name for name in left if name in right and not name.endswith(NOT_TESTED)]
            differences.append({name: left[name] - right[name] for name in names})
            counts.append(_counts([cells_of[key].problems[problem] for key in (a, b) for problem in shared]))
        metrics = _each_mean(differences, seed, difference=True)
        rows.append(SummaryRow(*_names(a, b), metrics, *_added(counts), _kind(a, b), MEAN))
    return rows


def _each_mean(figures: Sequence[Mapping[str, Floats]], seed: int, difference: bool = False) -> dict[str, Estimate]:
    shared = [name for name in figures[0] if all(name in each for each in figures)]
    metrics = {
        name: mean_of_means(
            [each[name] for each in figures], difference=difference, bound=1.0 if is_share(name) else None, seed=seed
        )
        for name in shared
    }
    return metrics | {"wall_s": UNKNOWN, "tokens_per_s": UNKNOWN}


def _names(a: Key, b: Key) -> Key:
    checkpoint, arm = (x if x == y else x + MINUS + y for x, y in zip(a, b, strict=True))
    return checkpoint, arm


def _kind(a: Key, b: Key) -> Literal["arms", "checkpoints"]:
    return "arms" if a[0] == b[0] else "checkpoints"


def _scaled(estimate: Estimate, by: int) -> Estimate:
    return Estimate(estimate.value * by, estimate.low * by, estimate.high * by, estimate.n)


def _per_chunk(rows: list[Record]) -> tuple[Floats, Floats, Floats]:
    """Wall seconds, tokens and problems, (chunks,) each."""
    wall, tokens, problems = (np.array([row[name] for row in rows], float) for name in ("wall_s", "tokens", "problems"))
    return wall, tokens, problems


def _counts(rows: Collection[Record]) -> tuple[int, int, int]:
    """Problems, samples, and samples without a reward."""
    problems = {row["problem"]: None for row in rows}
    rewards = [reward for row in rows for reward in row["rewards"]]
    return len(problems), len(rewards), rewards.count(None)


def _added(counts: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    problems, samples, unusable = (sum(column) for column in zip(*counts, strict=True))
    return problems, samples, unusable


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
