"""From evaluation records to a table: every figure with its interval and n, and paired differences of decodings."""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from led_rl.evaluation.estimates import (
    Estimate,
    Floats,
    mean_interval,
    paired_difference,
    pass_at_k,
    proportion_interval,
    ratio_difference,
    ratio_interval,
)
from led_rl.evaluation.records import Record

PASS_KS = (1, 2, 4, 8, 16)
ARM_COMPARISONS = (("led", "standard"), ("led", "top_k_control"))
MINUS = " − "


@dataclass(frozen=True)
class SummaryRow:
    """Figures of one checkpoint under one arm, or of a paired difference between two such.

    `metrics`, over problems: `pass@k`, `truncated` (shares of 1), `reward`, `thinking_tokens`, `answer_tokens`,
    `total_tokens` (means per completion); over chunks: `wall_s` (seconds for all problems), `tokens_per_s`. The `n` of
    each `Estimate` counts those problems or chunks.
    """

    checkpoint: str
    arm: str
    metrics: dict[str, Estimate]
    problems: int
    samples: int
    unusable: int  # samples without a reward: left out of pass@k and reward
    compares: Literal["arms", "checkpoints"] | None = None  # what a difference is between
    benchmark: str = ""

    @property
    def is_difference(self) -> bool:
        return self.compares is not None


def summarise(
    records: Iterable[Record],
    *,
    ks: Sequence[int] = PASS_KS,
    arm_comparisons: Sequence[tuple[str, str]] = ARM_COMPARISONS,
    checkpoint_comparisons: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> list[SummaryRow]:
    """One row per checkpoint and arm, then the paired differences first - second of each comparison that is there.

    Args:
        ks: of pass@k; those above the number of samples are left out.
        arm_comparisons: pairs of arms, compared for every checkpoint.
        checkpoint_comparisons: pairs of checkpoints, compared under every arm.
    """
    by_benchmark: dict[str, list[Record]] = {}
    for record in records:
        by_benchmark.setdefault(record.get("benchmark", ""), []).append(record)
    return [
        replace(row, benchmark=name)
        for name, group in by_benchmark.items()
        for row in _of_benchmark(group, ks, arm_comparisons, checkpoint_comparisons, seed)
    ]


def _of_benchmark(
    records: Iterable[Record],
    ks: Sequence[int],
    arm_comparisons: Sequence[tuple[str, str]],
    checkpoint_comparisons: Sequence[tuple[str, str]],
    seed: int,
) -> list[SummaryRow]:
    cells: dict[tuple[str, str], _Cell] = {}
    for record in records:
        cell = cells.setdefault((record["checkpoint"], record["arm"]), _Cell({}, {}))
        if record["kind"] == "problem":
            cell.problems[record["problem"]] = record
        elif record["wall_s"] is not None:
            cell.chunks[record["chunk"]] = record
    rows = [_figures(key, cell, ks, seed) for key, cell in cells.items()]
    checkpoints, arms = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    pairs = [((c, a), (c, b)) for c in checkpoints for a, b in arm_comparisons]
    pairs += [((a, arm), (b, arm)) for a, b in checkpoint_comparisons for arm in arms]
    rows += [_difference(a, b, cells, ks, seed) for a, b in pairs if a in cells and b in cells]
    return rows


def write_summary(folder: str | Path, rows: Sequence[SummaryRow]) -> Path:
    """summary.json in the folder; what is not estimable is null."""
    path = Path(folder) / "summary.json"
    path.write_text(json.dumps([_without_nan(asdict(row)) for row in rows], indent=1) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class _Cell:
    """Records of one checkpoint under one arm: problem rows by problem, chunk rows by chunk."""

    problems: dict[str, Record]
    chunks: dict[int, Record]


def _figures(key: tuple[str, str], cell: _Cell, ks: Sequence[int], seed: int) -> SummaryRow:
    metrics: dict[str, Estimate] = {}
    for name, values in _per_problem(list(cell.problems.values()), ks).items():
        metrics[name] = proportion_interval(values, seed=seed) if _is_share(name) else mean_interval(values, seed=seed)
    wall, tokens, problems = _per_chunk(list(cell.chunks.values()))
    per_problem = ratio_interval(wall, problems, seed=seed)
    total = float(problems.sum())
    metrics["wall_s"] = Estimate(
        per_problem.value * total, per_problem.low * total, per_problem.high * total, per_problem.n
    )
    metrics["tokens_per_s"] = ratio_interval(tokens, wall, seed=seed)
    return SummaryRow(*key, metrics, *_counts(cell.problems.values()))


def _difference(
    a: tuple[str, str], b: tuple[str, str], cells: dict[tuple[str, str], _Cell], ks: Sequence[int], seed: int
) -> SummaryRow:
    """a - b on the problems and chunks that both have."""
    shared = [problem for problem in cells[a].problems if problem in cells[b].problems]
    rows_a, rows_b = ([cells[key].problems[problem] for problem in shared] for key in (a, b))
    figures_a, figures_b = _per_problem(rows_a, ks), _per_problem(rows_b, ks)
    metrics = {
        name: paired_difference(figures_a[name], figures_b[name], bound=1.0 if _is_share(name) else None, seed=seed)
        for name in figures_a
        if name in figures_b
    }
    chunks = [chunk for chunk in cells[a].chunks if chunk in cells[b].chunks]
    (wall_a, tokens_a, problems), (wall_b, tokens_b, _) = (
        _per_chunk([cells[key].chunks[chunk] for chunk in chunks]) for key in (a, b)
    )
    per_problem = ratio_difference((wall_a, problems), (wall_b, problems), seed=seed)
    total = float(problems.sum())
    metrics["wall_s"] = Estimate(
        per_problem.value * total, per_problem.low * total, per_problem.high * total, per_problem.n
    )
    metrics["tokens_per_s"] = ratio_difference((tokens_a, wall_a), (tokens_b, wall_b), seed=seed)
    checkpoint = a[0] if a[0] == b[0] else a[0] + MINUS + b[0]
    arm = a[1] if a[1] == b[1] else a[1] + MINUS + b[1]
    return SummaryRow(checkpoint, arm, metrics, *_counts([*rows_a, *rows_b]), "arms" if a[0] == b[0] else "checkpoints")


def _per_problem(rows: list[Record], ks: Sequence[int]) -> dict[str, Floats]:
    """Each figure as one number per problem, (problems,); NaN where a problem has too few usable samples."""
    usable = np.array([sum(reward is not None for reward in row["rewards"]) for row in rows])
    correct = np.array([sum(right is True for right in row["correct"]) for row in rows])
    most = max((len(row["rewards"]) for row in rows), default=0)
    thinking, answer = (_means(row[name] for row in rows) for name in ("thinking_tokens", "answer_tokens"))
    return {f"pass@{k}": pass_at_k(usable, correct, k) for k in ks if k <= most} | {
        "reward": _means([reward for reward in row["rewards"] if reward is not None] for row in rows),
        "thinking_tokens": thinking,
        "answer_tokens": answer,
        "total_tokens": thinking + answer,
        "truncated": 1 - _means(row["finished"] for row in rows),
    }


def _per_chunk(rows: list[Record]) -> tuple[Floats, Floats, Floats]:
    """Wall seconds, tokens and problems, (chunks,) each."""
    wall, tokens, problems = (np.array([row[name] for row in rows], float) for name in ("wall_s", "tokens", "problems"))
    return wall, tokens, problems


def _means(groups: Iterable[Sequence[float]]) -> Floats:
    return np.array([sum(group) / len(group) if len(group) else math.nan for group in groups])


def _is_share(name: str) -> bool:
    return name.startswith("pass@") or name == "truncated"


def _counts(rows: Collection[Record]) -> tuple[int, int, int]:
    """Problems, samples, and samples without a reward."""
    problems = {row["problem"]: None for row in rows}
    rewards = [reward for row in rows for reward in row["rewards"]]
    return len(problems), len(rewards), rewards.count(None)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def pass_ks(rows: Sequence[SummaryRow]) -> list[int]:
    """The k of every pass@k that all rows have, ascending."""
    found = [{int(name[5:]) for name in row.metrics if name.startswith("pass@")} for row in rows]
    return sorted(set.intersection(*found)) if found else []
