"""Problems x decodings x checkpoints -> records on disk; a killed evaluation goes on where it stopped.

Problems run in chunks. Within a chunk every decoding ("arm") runs on the same problems, in an order that rotates from
chunk to chunk, so that neither a drift of the machine's speed nor a warm prefix cache favours one arm's wall time.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from led_rl.engines.engine import Completion, Engine
from led_rl.evaluation.problems import Arm, ChatTokenizer, Problem, fingerprint, prompt_ids, weights_of
from led_rl.evaluation.records import EvaluationError, Record, RecordStore, block_of, open_records, read_records
from led_rl.terminal.progress_bar import progress_bar

FORMAT = 1


class Reward(Protocol):
    """A reward function of TRL's signature; None for a completion that cannot be judged."""

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]: ...


@dataclass(frozen=True)
class Grading:
    """How completions become right or wrong."""

    reward: Reward
    tokenizer: ChatTokenizer
    correct_from: float = 1.0  # a sample is correct if its reward is at least this


def evaluate(
    engine: Engine | Callable[[], Engine],
    tokenizer: ChatTokenizer,
    checkpoints: Mapping[str, str],
    problems: Sequence[Problem],
    arms: Mapping[str, Arm],
    reward: Reward,
    output: str | Path,
    *,
    chunk_size: int | None = None,
    correct_from: float = 1.0,
    keep_completions: int = 1,
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
    regrade: bool = False,
) -> list[Record]:
    """Runs what is missing in `output` and returns all of its records (see `summarise`).

    Args:
        engine: an engine, or a function that builds one and is called only if something is missing.
        checkpoints: label -> folder or hub id, all of one architecture: one engine runs them all.
        chunk_size: problems at a time: what a killed run may lose, and the unit whose times are compared. By default
            32, or as many as make 8 chunks of fewer problems.
        correct_from: a sample is correct if its reward is at least this.
        keep_completions: samples per problem whose token ids are recorded (for `led_rl.evaluation.layer_entropy`).
        about: further settings to record and to insist on, such as the reward's and the engine's name.
        regrade: grade all recorded completions anew, as after a change of the reward or of golds; none is generated
            again.

    Raises:
        EvaluationError: `output` holds an evaluation with other settings, or the reward's answer does not fit.
    """
    if not (checkpoints and problems and arms):
        raise EvaluationError("an evaluation needs at least one checkpoint, one problem and one arm")
    chunk_size = chunk_size or min(32, math.ceil(len(problems) / 8))
    prompts = [prompt_ids(tokenizer, problem.problem) for problem in problems]
    manifest = {
        "format": FORMAT,
        "about": dict(about or {}),
        "arms": {name: asdict(arm) for name, arm in arms.items()},
        "problems": {"count": len(problems), "sha256": fingerprint(problems, prompts)},
        "chunk_size": chunk_size,
        "correct_from": correct_from,
        "keep_completions": keep_completions,
        "checkpoints": {label: {"path": str(path), "weights": weights_of(path)} for label, path in checkpoints.items()},
    }
    grading = Grading(reward, tokenizer, correct_from)
    chunks = math.ceil(len(problems) / chunk_size)
    asked = {problem.id: (problem, prompt) for problem, prompt in zip(problems, prompts, strict=True)}
    with open_records(Path(output), manifest, regrade) as store:
        if regrade:
            store.regrade(graded(recorded, asked, grading, keep_completions) for recorded in store.completions)
        for recorded in store.completions:
            if block_of(recorded[-1]) not in store.records.finished:
                store.keep_records(*graded(recorded, asked, grading, keep_completions))
        missing = {label: _missing(store, label, chunks, list(arms)) for label in checkpoints}
        total = len(checkpoints) * chunks * len(arms)
        done = total - sum(map(len, missing.values()))
        with progress_bar(total, "evaluate", "chunk", done, shown=progress) as bar:
            for label, blocks in missing.items():
                if not blocks:
                    continue
                running = engine = engine() if callable(engine) else engine
                running.load_weights(checkpoints[label])
                _warm_up(running, prompts[:2], [arms[name] for name in dict.fromkeys(name for _, name in blocks)])
                for chunk, name in blocks:
                    rows = slice(chunk * chunk_size, (chunk + 1) * chunk_size)
                    block = _Block(label, name, chunk, list(problems[rows]), prompts[rows])
                    generated = _generated(block, arms[name], running, tokenizer)
                    store.keep_completions(*generated)
                    completions, chunk_row = generated
                    store.keep_records(*graded([*completions, chunk_row], asked, grading, keep_completions))
                    speed = chunk_row["tokens"] / chunk_row["wall_s"]
                    bar.advance(note=f"{label} {name}: {speed:,.0f} tokens/s")
    return read_records(output)


def _missing(store: RecordStore, checkpoint: str, chunks: int, arms: list[str]) -> list[tuple[int, str]]:
    """(chunk, arm) still to run, the arms of each chunk in rotated order."""
    return [
        (chunk, arm)
        for chunk in range(chunks)
        for arm in (arms[(chunk + i) % len(arms)] for i in range(len(arms)))
        if (checkpoint, arm, chunk) not in store.records.finished
    ]


def _warm_up(engine: Engine, prompts: list[list[int]], arms: list[Arm]) -> None:
    """Untimed: first calls pay for compilation and allocation."""
    for arm in arms:
        engine.generate(prompts, arm.decoding, replace(arm.sampling, n=1, max_tokens=min(8, arm.sampling.max_tokens)))


@dataclass(frozen=True)
class _Block:
    checkpoint: str
    arm: str
    chunk: int
    problems: list[Problem]
    prompts: list[list[int]]


def _generated(block: _Block, arm: Arm, engine: Engine, tokenizer: ChatTokenizer) -> tuple[list[Record], Record]:
    """A row for each completion of the block, and the row that commits them."""
    # engines count their random streams from the first prompt of a call, so each chunk needs a seed of its own
    chunk_seed = int(np.random.SeedSequence([arm.sampling.seed, block.chunk]).generate_state(1)[0]) >> 1
    started = time.perf_counter()
    groups = engine.generate(block.prompts, arm.decoding, replace(arm.sampling, seed=chunk_seed))
    wall_s = time.perf_counter() - started
    key: Record = {"checkpoint": block.checkpoint, "arm": block.arm, "chunk": block.chunk}
    shown = tokenizer.batch_decode(block.prompts, skip_special_tokens=False)
    rows = []
    for problem, prompt, group in zip(block.problems, shown, groups, strict=True):
        texts = tokenizer.batch_decode([completion.token_ids for completion in group], skip_special_tokens=True)
        rows += [
            {
                "kind": "completion",
                **key,
                "problem": problem.id,
                "sample": sample,
                "seed": chunk_seed,
                "prompt": prompt,
                "text": text,
                "token_ids": completion.token_ids,
                "thinking": "".join("1" if thought else "0" for thought in completion.thinking),
                "finished": completion.finished,
                "statistics": completion.statistics,
            }
            for sample, (completion, text) in enumerate(zip(group, texts, strict=True))
        ]
    tokens = sum(len(completion.token_ids) for group in groups for completion in group)
    return rows, {"kind": "chunk", **key, "problems": len(groups), "wall_s": wall_s, "tokens": tokens}


def graded(
    rows: Sequence[Record], asked: Mapping[str, tuple[Problem, list[int]]], grading: Grading, keep_completions: int
) -> tuple[list[Record], Record]:
    """A row for each problem of a block that was generated, and the row that commits them.

    Args:
        rows: of the block's completions, its chunk row last.
        asked: problem and prompt by the problem's id.

    Raises:
        EvaluationError: a problem is not among those asked now, was asked in other words, or the reward fails.
    """
    *completions, chunk_row = rows
    by_problem: dict[str, list[Record]] = {}
    for row in completions:
        by_problem.setdefault(row["problem"], []).append(row)
    if unknown := [problem for problem in by_problem if problem not in asked]:
        raise EvaluationError(
            f"completions of problem {unknown[0]!r} are recorded, which is not among the problems now"
        )
    problems, prompts = (list(column) for column in zip(*(asked[problem] for problem in by_problem), strict=True))
    shown = grading.tokenizer.batch_decode(prompts, skip_special_tokens=False)
    for problem, prompt, group in zip(problems, shown, by_problem.values(), strict=True):
        if prompt != group[0]["prompt"]:
            raise EvaluationError(f"problem {problem.id!r} was asked in other words when its completions were recorded")
    groups = [[_completion(row) for row in group] for group in by_problem.values()]
    key = {name: chunk_row[name] for name in ("checkpoint", "arm", "chunk")}
    return [
        {
            "kind": "problem",
            **key,
            "problem": problem.id,
            "rewards": rewards,
            "correct": [None if reward is None else reward >= grading.correct_from for reward in rewards],
            "thinking_tokens": [sum(completion.thinking) for completion in group],
            "answer_tokens": [len(completion.token_ids) - sum(completion.thinking) for completion in group],
            "finished": [completion.finished for completion in group],
            "prompt_ids": prompt,
            "kept": [
                {"token_ids": row["token_ids"], "thinking": row["thinking"]}
                for row in by_problem[problem.id][:keep_completions]
            ],
        }
        for problem, prompt, group, rewards in zip(
            problems, prompts, groups, grade(grading, problems, groups), strict=True
        )
    ], dict(chunk_row)


def _completion(row: Record) -> Completion:
    """A recorded completion; its log-probabilities are not recorded."""
    return Completion(row["token_ids"], [], [flag == "1" for flag in row["thinking"]], row["finished"])


def grade(
    grading: Grading, problems: Sequence[Problem], groups: Sequence[Sequence[Completion]]
) -> list[list[float | None]]:
    """Rewards of each problem's completions, decoded and passed as in TRL; None where there is nothing to judge."""
    repeated = [problem for problem, group in zip(problems, groups, strict=True) for _ in group]
    token_ids = [completion.token_ids for group in groups for completion in group]
    texts = grading.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    names = dict.fromkeys(name for problem in problems for name in problem.columns)
    columns = {name: [problem.columns.get(name) for problem in repeated] for name in names}
    rewards = grading.reward(
        prompts=[[{"role": "user", "content": problem.problem}] for problem in repeated],
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=token_ids,
        **({"problem": [problem.problem for problem in repeated]} | columns),
    )
    if len(rewards) != len(repeated):
        raise EvaluationError(f"the reward returned {len(rewards)} values for {len(repeated)} completions")
    values = iter(_usable(reward, problem) for reward, problem in zip(rewards, repeated, strict=True))
    return [[next(values) for _ in group] for group in groups]


def _usable(reward: Any, problem: Problem) -> float | None:
    """The reward as a finite number, None for None and NaN; raises EvaluationError for anything else."""
    if reward is None:
        return None
    try:
        value = float(reward)
    except (TypeError, ValueError):
        value = math.inf
    if math.isinf(value) or isinstance(reward, str):
        raise EvaluationError(
            f"the reward returned {reward!r} for problem {problem.id!r}; allowed: a finite number, or None (NaN, too) "
            "where there is nothing to judge"
        )
    return None if math.isnan(value) else value


def try_reward(grading: Grading, problems: Sequence[Problem]) -> None:
    """Grades one empty completion for each problem, so that a reward that cannot work fails before the first token.

    Raises:
        EvaluationError: the reward raises (it lacks a column, say), or returns what is no reward.
    """
    nothing = Completion([], [], [], True)
    try:
        grade(grading, problems, [[nothing] for _ in problems])
    except EvaluationError:
        raise
    except Exception as error:  # whatever a reward's own code may raise
        columns = ", ".join(dict.fromkeys(name for problem in problems for name in problem.columns)) or "none"
        raise EvaluationError(
            f"the reward fails on empty completions: {type(error).__name__}: {error} (columns besides the problem: "
            f"{columns})"
        ) from error
