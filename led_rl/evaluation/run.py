"""Checkpoints x benchmarks x arms -> records on disk; a killed evaluation goes on where it stopped.

Schedule `blocks`: problems run in chunks. Within a chunk every arm runs on the same problems, in an order that rotates
from chunk to chunk, so that neither a drift of the machine's speed nor a warm prefix cache favours one arm's wall time.
Schedule `throughput`: all requests of a checkpoint are in flight together; no block has a time of its own.

Every request draws from a stream of its own, fixed by (seed, benchmark, problem, sample): the same under every arm and
checkpoint, and the same when a killed run is resumed.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from led_rl.engines.engine import Completion, Engine, Request, stream
from led_rl.evaluation.arms import Arm, default_comparisons
from led_rl.evaluation.completion_log import CompletionLog
from led_rl.evaluation.grading import Grading, graded
from led_rl.evaluation.problems import ChatTokenizer, Problem, PromptStyle, fingerprint
from led_rl.evaluation.records import COMPLETIONS, Block, RecordStore, open_records, read_records
from led_rl.evaluation.rows import EvaluationError, Record
from led_rl.terminal.progress_bar import progress_bar

FORMAT = 2
SCHEDULES = ("blocks", "throughput")


@dataclass(frozen=True)
class Checkpoint:
    """A model under evaluation: where it lies, its tokenizer, and what recognises it (`weights_of`, prompts)."""

    path: str
    tokenizer: ChatTokenizer
    identity: dict[str, str]


@dataclass(frozen=True)
class Task:
    """A benchmark's problems, and what is recorded about it (source, reward, ...)."""

    problems: Sequence[Problem]
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Everything that is run. `arms`: `Sampling.n` completions a problem under each of `seeds`.

    Attributes:
        chunk_size: problems of a block: the unit whose times are compared. By default 32, or as many as make 8 blocks.
        keep: samples per problem whose token ids are recorded with the verdicts (for layers/entropy.py).
        comparisons: (arm, baseline) pairs to compare; by default every arm with the baselines of its temperature.
        settings: further settings to record and to insist on.
        environment: versions and machine; recorded, not insisted on.
    """

    checkpoints: Mapping[str, Checkpoint]
    tasks: Mapping[str, Task]
    arms: Mapping[str, Arm]
    seeds: Sequence[int] = (0,)
    style: PromptStyle = field(default_factory=PromptStyle)
    schedule: str = "blocks"
    chunk_size: int | None = None
    keep: int = 1
    comparisons: Sequence[tuple[str, str]] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    def chunk(self, task: str) -> int:
        return self.chunk_size or min(32, math.ceil(len(self.tasks[task].problems) / 8))

    def manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "settings": {
                "seeds": list(self.seeds),
                "system_prompt": self.style.system_prompt,
                "chat_template_options": dict(self.style.template_options),
                "keep_completions": self.keep,
                **self.settings,
            },
            "arms": {name: asdict(arm) for name, arm in self.arms.items()},
            "benchmarks": {
                name: {
                    **task.about,
                    "count": len(task.problems),
                    "sha256": fingerprint(task.problems),
                    "chunk_size": self.chunk(name),
                }
                for name, task in self.tasks.items()
            },
            "checkpoints": {label: {"path": c.path, **c.identity} for label, c in self.checkpoints.items()},
            "comparisons": default_comparisons(self.arms) if self.comparisons is None else list(self.comparisons),
            "environment": dict(self.environment),
        }


@dataclass
class _Pending:
    """A block to run: its requests that no completion answers yet, by (problem, sample)."""

    block: Block
    problems: list[tuple[Problem, list[int]]]
    missing: list[tuple[int, int]]  # place of the problem in the block, sample
    interrupted: bool
    left: int
    started: float = 0.0


def evaluate(
    plan: Plan,
    engine_of: Callable[[str], Engine],
    grading_of: Callable[[str, str], Grading],
    output: str | Path,
    *,
    progress: bool = True,
    regrade: bool = False,
) -> list[Record]:
    """Runs what is missing in `output` and returns all of its records (see `summarise`).

    Args:
        engine_of: checkpoint's label -> an engine with its weights; called only for those that lack completions, once
            each, in order.
        grading_of: checkpoint's and benchmark's name -> how to grade.
        regrade: grade all recorded completions anew, as after a change of the reward or of golds; none is generated
            again.

    Raises:
        EvaluationError: `output` holds an evaluation with other settings, or the reward's answer does not fit.
    """
    if not (plan.checkpoints and plan.arms and plan.tasks and all(task.problems for task in plan.tasks.values())):
        raise EvaluationError("an evaluation needs at least one checkpoint, one problem and one arm")
    if plan.schedule not in SCHEDULES:
        raise EvaluationError(f"schedule must be one of {', '.join(SCHEDULES)}; got {plan.schedule!r}")
    with open_records(Path(output), plan.manifest(), regrade) as store:
        run = _Run(plan, store, CompletionLog(Path(output) / COMPLETIONS), grading_of)
        if regrade:
            run.regrade()
        waiting = {label: list(run.pending(label)) for label in plan.checkpoints}
        total = sum(len(plan.checkpoints) * len(plan.arms) * run.samples * len(t.problems) for t in plan.tasks.values())
        left = sum(pending.left for blocks in waiting.values() for pending in blocks)
        with progress_bar(total, "evaluate", "sample", total - left, shown=progress) as bar:
            for label, blocks in waiting.items():
                for pending in blocks:
                    if not pending.left:  # a kill fell between its last completion and its chunk row
                        run.finish(pending, None)
                if blocks := [pending for pending in blocks if pending.left]:
                    run.generate(blocks, engine_of(label), bar)
    return read_records(output)


class _Run:
    def __init__(self, plan: Plan, store: RecordStore, log: CompletionLog, grading_of: Callable[[str, str], Grading]):
        self.plan, self.store, self.log, self.grading_of = plan, store, log, grading_of
        self.samples = len(plan.seeds) * next(iter(plan.arms.values())).sampling.n
        self.prompts: dict[tuple[str, str], list[list[int]]] = {}

    def asked(self, label: str, task: str, chunk: int) -> list[tuple[Problem, list[int]]]:
        """Problems of a chunk with their prompts in the checkpoint's tokens."""
        if (label, task) not in self.prompts:
            tokenizer = self.plan.checkpoints[label].tokenizer
            problems = self.plan.tasks[task].problems
            self.prompts[label, task] = [self.plan.style.prompt_ids(tokenizer, p.problem) for p in problems]
        size = self.plan.chunk(task)
        rows = slice(chunk * size, (chunk + 1) * size)
        return list(zip(self.plan.tasks[task].problems[rows], self.prompts[label, task][rows], strict=True))

    def blocks(self, label: str) -> Iterator[Block]:
        """The blocks of a checkpoint, the arms of each chunk in rotated order."""
        names = list(self.plan.arms)
        for task, content in self.plan.tasks.items():
            for chunk in range(math.ceil(len(content.problems) / self.plan.chunk(task))):
                for i in range(len(names)):
                    yield label, task, names[(chunk + i) % len(names)], chunk

    def pending(self, label: str) -> Iterator[_Pending]:
        """What a checkpoint's blocks lack; blocks that lack only their grades are graded here."""
        for block in self.blocks(label):
            if block in self.store.records.finished:
                continue
            if block in self.log.chunks:
                self.grade(block)
                continue
            problems, done = self.asked(label, block[1], block[3]), self.log.samples(block)
            missing = [(i, j) for i in range(len(problems)) for j in range(self.samples)]
            missing = [(i, j) for i, j in missing if (problems[i][0].id, j) not in done]
            yield _Pending(block, problems, missing, bool(done), len(missing))

    def generate(self, blocks: Sequence[_Pending], engine: Engine, bar: Any) -> None:
        """Runs the blocks of one checkpoint, one after the other or all together."""
        if self.plan.schedule == "throughput":
            self._run(blocks, engine, bar, timed=False)
            return
        warm_up(engine, blocks[0].problems[0][1], [self.plan.arms[n] for n in {p.block[2]: 0 for p in blocks}])
        for pending in blocks:
            self._run([pending], engine, bar, timed=not pending.interrupted)

    def _run(self, blocks: Sequence[_Pending], engine: Engine, bar: Any, timed: bool) -> None:
        owners: list[tuple[_Pending, int, int]] = [(p, i, j) for p in blocks for i, j in p.missing]
        started = time.perf_counter()
        for index, completion in stream(engine, (self._request(*owner) for owner in owners)):
            pending, i, sample = owners[index]
            self.store.write_manifest()
            self.log.append(self._row(pending, i, sample, completion))
            bar.advance()
            pending.left -= 1
            if not pending.left:
                self.finish(pending, time.perf_counter() - started if timed else None)
                bar.note(" ".join(map(str, pending.block)))

    def _seed(self, pending: _Pending, i: int, sample: int) -> int:
        each = self.samples // len(self.plan.seeds)
        seed = self.plan.seeds[sample // each]
        return request_seed(seed, pending.block[1], pending.problems[i][0].id, sample % each)

    def _request(self, pending: _Pending, i: int, sample: int) -> Request:
        arm = self.plan.arms[pending.block[2]]
        sampling = replace(arm.sampling, n=1, seed=self._seed(pending, i, sample))
        return Request(pending.problems[i][1], arm.decoding, sampling)

    def _row(self, pending: _Pending, i: int, sample: int, completion: Completion) -> Record:
        problem, prompt = pending.problems[i]
        tokenizer = self.plan.checkpoints[pending.block[0]].tokenizer
        explored = "" if completion.explored is None else "".join("1" if flag else "0" for flag in completion.explored)
        return {
            "kind": "completion",
            **_key(pending.block),
            "problem": problem.id,
            "sample": sample,
            "seed": self._seed(pending, i, sample),
            "prompt": tokenizer.batch_decode([prompt], skip_special_tokens=False)[0],
            "text": tokenizer.batch_decode([completion.token_ids], skip_special_tokens=True)[0],
            "token_ids": completion.token_ids,
            "thinking": "".join("1" if flag else "0" for flag in completion.thinking),
            "explored": explored,
            "finished": completion.finished,
            "wall_s": None if completion.wall_s is None else round(completion.wall_s, 4),
            "statistics": completion.statistics,
        }

    def finish(self, pending: _Pending, wall_s: float | None) -> None:
        """Commits a block whose completions are all there, and grades it."""
        tokens = sum(len(row["token_ids"]) for row in self.log.rows(pending.block))
        key = _key(pending.block)
        self.log.commit({"kind": "chunk", **key, "problems": len(pending.problems), "wall_s": wall_s, "tokens": tokens})
        self.grade(pending.block)

    def grade(self, block: Block) -> None:
        self.store.keep_records(*self._graded(block))

    def _graded(self, block: Block) -> tuple[list[Record], Record]:
        label, task, _, chunk = block
        asked = {problem.id: (problem, prompt) for problem, prompt in self.asked(label, task, chunk)}
        rows, chunk_row = self.log.rows(block), self.log.chunks[block]
        return graded(rows, chunk_row, asked, self.grading_of(label, task), self.plan.keep)

    def regrade(self) -> None:
        """Replaces the grades of all blocks whose completions are there."""
        recorded = self.store.records.finished
        if not self.log.chunks and not recorded:
            raise EvaluationError(f"{self.store.folder} holds no completions to grade anew; evaluate without regrade")
        if missing := recorded - self.log.chunks.keys():
            raise EvaluationError(
                f"{self.store.folder} cannot be graded anew: {COMPLETIONS} lacks {len(missing)} of {len(recorded)} "
                "graded blocks (an older version did not write it)"
            )
        planned = {block for label in self.plan.checkpoints for block in self.blocks(label)}
        if outside := [block for block in self.log.chunks if block not in planned]:
            raise EvaluationError(
                f"{self.store.folder} holds completions of checkpoint {outside[0][0]!r}, benchmark {outside[0][1]!r}, "
                f"arm {outside[0][2]!r}; to grade anew, name all checkpoints, benchmarks and arms that are there"
            )
        self.store.replace_records(self._graded(block) for block in self.log.chunks)


def request_seed(seed: int, benchmark: str, problem: str, sample: int) -> int:
    """The seed of one request, from 0 to 2^63 - 1."""
    text = "\0".join((str(seed), benchmark, problem, str(sample)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def warm_up(engine: Engine, prompt: list[int], arms: Sequence[Arm]) -> None:
    """Untimed: first calls pay for compilation and allocation."""
    requests = [
        Request(prompt, arm.decoding, replace(arm.sampling, n=1, max_tokens=min(8, arm.sampling.max_tokens)))
        for arm in arms
        for _ in range(2)
    ]
    for _ in stream(engine, requests):
        pass


def _key(block: Block) -> Record:
    return dict(zip(("checkpoint", "benchmark", "arm", "chunk"), block, strict=True))
