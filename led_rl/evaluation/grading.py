"""From recorded completions to right or wrong: rewards of TRL's signature, and the answers that they read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from led_rl.evaluation.problems import ChatTokenizer, Problem, PromptStyle
from led_rl.evaluation.rows import EvaluationError, Record
from rewards import RewardError, call_reward

EXTRACTED = ("extracted", "chosen_letter")  # what rewards call the answer that they read, in `log_extra`


class Reward(Protocol):
    """A reward function of TRL's signature; None for a completion that cannot be judged."""

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]: ...


@dataclass(frozen=True)
class Grading:
    """How the completions of one checkpoint on one benchmark become right or wrong."""

    reward: Reward
    tokenizer: ChatTokenizer
    correct_from: float = 1.0  # a sample is correct if its reward is at least this
    style: PromptStyle = field(default_factory=PromptStyle)


def graded(
    rows: Sequence[Record],
    chunk_row: Record,
    asked: Mapping[str, tuple[Problem, list[int]]],
    grading: Grading,
    keep: int,
) -> tuple[list[Record], Record]:
    """A row for each problem of a block that was generated, and the row that commits them.

    Args:
        rows: the block's completions.
        asked: problem and prompt by the problem's id.
        keep: samples per problem whose token ids are recorded.

    Raises:
        EvaluationError: a problem is not among those asked now, was asked in other words, or the reward fails.
    """
    by_problem: dict[str, list[Record]] = {name: [] for name in asked if any(row["problem"] == name for row in rows)}
    for row in rows:
        if row["problem"] not in by_problem:
            raise EvaluationError(
                f"completions of problem {row['problem']!r} are recorded, which is not among the problems now"
            )
        by_problem[row["problem"]].append(row)
    for group in by_problem.values():
        group.sort(key=lambda row: row["sample"])
    problems, prompts = (list(column) for column in zip(*(asked[name] for name in by_problem), strict=True))
    shown = grading.tokenizer.batch_decode(prompts, skip_special_tokens=False)
    for problem, prompt, group in zip(problems, shown, by_problem.values(), strict=True):
        if prompt != group[0]["prompt"]:
            raise EvaluationError(f"problem {problem.id!r} was asked in other words when its completions were recorded")
    token_ids = [[row["token_ids"] for row in group] for group in by_problem.values()]
    rewards, extracted = grade(grading, problems, token_ids)
    key = {name: chunk_row[name] for name in ("checkpoint", "benchmark", "arm", "chunk")}
    return [
        {
            "kind": "problem",
            **key,
            "problem": problem.id,
            "gold": gold_of(problem),
            "rewards": values,
            "correct": [None if value is None else value >= grading.correct_from for value in values],
            "extracted": answers,
            "thinking_tokens": [row["thinking"].count("1") for row in group],
            "answer_tokens": [row["thinking"].count("0") for row in group],
            "finished": [row["finished"] for row in group],
            "prompt_ids": prompt,
            "kept": [{"token_ids": row["token_ids"], "thinking": row["thinking"]} for row in group[:keep]],
        }
        for problem, prompt, group, values, answers in zip(
            problems, prompts, by_problem.values(), rewards, extracted, strict=True
        )
    ], dict(chunk_row)


def gold_of(problem: Problem) -> str | None:
    """The problem's gold as text, for readers of the records; None where its `answer` is none, as with tests."""
    gold = problem.columns.get("answer")
    return str(gold) if isinstance(gold, str | int | float) else None


def grade(
    grading: Grading, problems: Sequence[Problem], token_ids: Sequence[Sequence[list[int]]]
) -> tuple[list[list[float | None]], list[list[str | None]]]:
    """Rewards and extracted answers of each problem's completions, which are decoded and passed as in TRL.

    A reward is None where there is nothing to judge; an answer is None where none was found or the reward names none.

    Raises:
        EvaluationError: the reward raises, or returns other than a finite number or None for each completion; names the
            reward and the problem.
    """
    repeated = [problem for problem, group in zip(problems, token_ids, strict=True) for _ in group]
    flat = [list(tokens) for group in token_ids for tokens in group]
    texts = grading.tokenizer.batch_decode(flat, skip_special_tokens=True)
    names = dict.fromkeys(name for problem in problems for name in problem.columns)
    columns = {name: [problem.columns.get(name) for problem in repeated] for name in names}
    told: dict[str, list[str]] = {}
    try:
        rewards = call_reward(
            grading.reward,
            row_names=[f"problem {problem.id!r}" for problem in repeated],
            prompts=[grading.style.messages(problem.problem) for problem in repeated],
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            completion_ids=flat,
            **({"problem": [problem.problem for problem in repeated]} | columns | {"log_extra": told.__setitem__}),
        )
    except RewardError as error:
        raise EvaluationError(str(error)) from error
    answers = next((told[name] for name in EXTRACTED if len(told.get(name, ())) == len(repeated)), [""] * len(repeated))
    values = iter(rewards)
    found = iter(str(answer) if answer else None for answer in answers)
    return [[next(values) for _ in group] for group in token_ids], [[next(found) for _ in group] for group in token_ids]


def try_reward(grading: Grading, problems: Sequence[Problem]) -> None:
    """Grades one empty completion for each problem, so that a reward that cannot work fails before the first token.

    Raises:
        EvaluationError: the reward raises (it lacks a column, say), or returns what is no reward.
    """
    grade(grading, problems, [[[]] for _ in problems])
