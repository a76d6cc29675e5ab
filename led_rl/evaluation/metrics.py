"""Figures of each problem, from the recorded verdicts and lengths of its samples; summary.py makes means of them."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from math import comb

import numpy as np

from led_rl.evaluation.estimates import Floats, pass_at_k
from led_rl.evaluation.rows import Record

MAJORITY_DRAWS = 200
LENGTHS = ("thinking_tokens", "answer_tokens", "total_tokens")


def per_problem(rows: Sequence[Record], ks: Sequence[int] | None = None) -> dict[str, Floats]:
    """Each figure as one number per problem, (problems,); NaN where a problem has too few usable samples.

    `pass@k`, `avg@n` (the mean over the n samples, which is pass@1's estimate), `majority@k`, `reward`,
    `distinct_answers`, `truncated`, and the mean lengths of all completions, of finished ones
    (`total_tokens_finished`) and of correct ones.

    Args:
        ks: of pass@k and majority@k; by default every k up to the number of samples for pass@k.
    """
    usable = np.array([sum(reward is not None for reward in row["rewards"]) for row in rows])
    correct = np.array([sum(right is True for right in row["correct"]) for row in rows])
    most = max((len(row["rewards"]) for row in rows), default=0)
    figures = {f"pass@{k}": pass_at_k(usable, correct, k) for k in ks or range(1, most + 1) if k <= most}
    if most > 1 and "pass@1" in figures:
        figures[f"avg@{most}"] = figures["pass@1"]
    answers = [row.get("extracted") or [None] * len(row["rewards"]) for row in rows]
    if any(map(any, answers)):
        for k in shown_ks(ks or range(1, most + 1)):
            if 1 < k <= most:
                figures[f"majority@{k}"] = np.array(
                    [majority_at_k(extracted, row["correct"], k) for extracted, row in zip(answers, rows, strict=True)]
                )
        distinct = [len({answer for answer in each if answer is not None}) for each in answers]
        figures["distinct_answers"] = np.array(distinct, float)
    figures["reward"] = _means([reward for reward in row["rewards"] if reward is not None] for row in rows)
    figures["truncated"] = 1 - _means(row["finished"] for row in rows)
    for which, chosen in (("", None), ("_finished", "finished"), ("_correct", "correct")):
        for name in LENGTHS:
            figures[name + which] = _means(_lengths(row, name, chosen) for row in rows)
    return figures


def majority_at_k(extracted: Sequence[str | None], correct: Sequence[bool | None], k: int) -> float:
    """Probability that the most frequent answer among k of the samples is right; NaN with fewer than k usable samples.

    Answers are the same if their texts are. Samples without an answer do not vote. Among equally frequent answers one
    is drawn. The mean is over all choices of k samples: exact for k = n, else over 200 random choices (unbiased).
    """
    usable = [i for i, right in enumerate(correct) if right is not None]
    if len(usable) < k:
        return math.nan
    counts = Counter(extracted[i] for i in usable)
    right = {answer: any(correct[i] for i in usable if extracted[i] == answer) for answer in counts}
    answers = list(counts)
    voting = np.array([answer is not None for answer in answers])
    is_right = np.array([right[answer] for answer in answers])
    sizes = np.array([counts[answer] for answer in answers])
    draws = 1 if len(usable) == k else min(MAJORITY_DRAWS, 20 * comb(len(usable), k))
    votes = np.random.default_rng(len(usable)).multivariate_hypergeometric(sizes, k, size=draws) * voting
    most = votes.max(axis=1, keepdims=True)  # (draws, 1)
    winners = (votes == most) & (most > 0)  # (draws, answers)
    shares = (winners & is_right).sum(axis=1) / np.maximum(winners.sum(axis=1), 1)
    return float(shares.mean())


def shown_ks(ks: Iterable[int]) -> list[int]:
    """Powers of two and the largest: the k that tables and figures show."""
    ordered = sorted(set(ks))
    return [k for k in ordered if k & (k - 1) == 0 or k == ordered[-1]]


def is_share(name: str) -> bool:
    """Whether a figure lies in [0, 1], so that its differences are bounded by 1."""
    return name.startswith(("pass@", "avg@", "majority@")) or name == "truncated"


def _lengths(row: Record, name: str, chosen: str | None) -> list[int]:
    parts = ("thinking_tokens", "answer_tokens") if name == "total_tokens" else (name,)
    kept = [True] * len(row["finished"]) if chosen is None else [flag is True for flag in row[chosen]]
    values = zip(*(row[part] for part in parts), strict=True)
    return [sum(value) for value, keep in zip(values, kept, strict=True) if keep]


def _means(groups: Iterable[Sequence[float]]) -> Floats:
    return np.array([sum(group) / len(group) if len(group) else math.nan for group in groups])
