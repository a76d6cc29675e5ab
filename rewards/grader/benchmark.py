"""Accuracy, time and safety of graders on cases with known verdicts: what `led-rl benchmark-grader` measures."""

import json
import math
import os
import random
import resource
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rewards.grader.hostile_answers import HOSTILE
from rewards.grader.workers.pool import WorkerPool

CASES = Path(__file__).resolve().parents[2] / "tests" / "rewards" / "cases"
HOSTILE_SHARE = 0.03
HOSTILE_KIND = "hostile"
Result = tuple[bool | None, float]  # a verdict, None for a gold that the grader cannot read, and seconds


@dataclass(frozen=True)
class Case:
    """`correct` is None for an unusable gold. A hostile answer only has to end, and to earn nothing."""

    gold: str
    prediction: str
    correct: bool | None
    kind: str


def load_cases(path: Path) -> list[Case]:
    """The rows {gold, prediction, correct (or want), kind} of a JSONL file, or of the files of a folder.

    A folder's files of other rewards are left out. Raises ValueError that names the file and the line.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    others = ("choice_letter", "unboxed_")  # cases of choice_letter, and of answers without a box
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    cases = []
    for file in files:
        if path.is_dir() and file.stem.startswith(others):
            continue
        for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                verdict = row["correct"] if "correct" in row else row["want"]
                case = Case(row["gold"], row["prediction"], verdict, row.get("kind", file.stem))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}, line {number}: no case {{gold, prediction, correct}}: {error!r}") from error
            if (
                verdict not in (True, False, None)
                or not isinstance(case.gold, str)
                or not isinstance(case.prediction, str)
            ):
                raise ValueError(
                    f"{file}, line {number}: gold and prediction are texts, correct is true, false or null"
                )
            cases.append(case)
    if not cases:
        raise ValueError(f"no cases in {path}")
    return cases


def mix_in_hostile(ordinary: list[Case], seed: int = 0, share: float = HOSTILE_SHARE) -> list[Case]:
    """The cases in random order, `share` of them hostile answers to golds of the others."""
    draw = random.Random(seed)
    count = max(1, round(len(ordinary) * share / (1 - share)))
    hostile = [
        Case(draw.choice(ordinary).gold, f"\\boxed{{{answer}}}", None, HOSTILE_KIND)
        for answer in (HOSTILE * (count // len(HOSTILE) + 1))[:count]
    ]
    mixed = [*ordinary, *hostile]
    draw.shuffle(mixed)
    return mixed


def measure(cases: Iterable[Case], pool: WorkerPool) -> list[Result]:
    """Verdict and wall-clock seconds of each case, one after the other; closes the pool."""
    results = []
    for case in cases:
        start = time.perf_counter()
        (result,) = pool.run([{"op": "grade", "text": case.prediction[-50_000:], "gold": case.gold, "unboxed": "none"}])
        results.append((result.get("correct", False), time.perf_counter() - start))
    pool.close()
    return results


@dataclass(frozen=True)
class Figures:
    """What one grader reached. A verdict is right if it rewards the right answers alone: None rewards nothing."""

    cases: int
    right: int
    false_positives: int
    false_negatives: int
    p50: float  # seconds, of ordinary answers
    p99: float  # seconds, with hostile ones
    slowest_hostile: float  # seconds

    @property
    def accuracy(self) -> float:
        return self.right / self.cases

    @property
    def passed(self) -> bool:
        """Whether the measures of math_answer are reached."""
        fast = self.p50 <= 0.005 and self.p99 <= 0.3 and self.slowest_hostile <= 1.0
        return self.accuracy >= 0.99 and not self.false_positives and fast


def figures(cases: Sequence[Case], results: Sequence[Result]) -> Figures:
    """The figures of one grader's results."""
    judged = [(case, verdict, seconds) for case, (verdict, seconds) in zip(cases, results, strict=True)]
    ordinary = [entry for entry in judged if entry[0].kind != HOSTILE_KIND]
    usual, everything = [seconds for _, _, seconds in ordinary], [seconds for _, _, seconds in judged]
    return Figures(
        cases=len(ordinary),
        right=sum((verdict is True) is (case.correct is True) for case, verdict, _ in ordinary),
        false_positives=sum(verdict is True and case.correct is not True for case, verdict, _ in ordinary),
        false_negatives=sum(verdict is not True and case.correct is True for case, verdict, _ in ordinary),
        p50=quantile(usual, 0.5),
        p99=quantile(everything, 0.99),
        slowest_hostile=max((seconds for case, _, seconds in judged if case.kind == HOSTILE_KIND), default=0.0),
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    z, share = 1.959964, successes / trials
    middle, spread = share + z * z / (2 * trials), z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return (middle - spread) / scale, (middle + spread) / scale


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def leak_check(cases: list[Case], answers: int) -> bool:
    """Grades many answers in batches; prints and judges the growth of processes, open files and memory."""
    pool = WorkerPool(2)
    jobs = [{"op": "grade", "text": case.prediction[-50_000:], "gold": case.gold} for case in cases]
    batch = 1_000
    start, done, before = time.perf_counter(), 0, None
    while done < answers:
        first = done % len(jobs)
        pool.run([jobs[(first + index) % len(jobs)] for index in range(batch)])
        done += batch
        if before is None and done >= min(answers // 5, 20_000):
            before = footprint(pool)  # caches are full by now
    after = footprint(pool)
    assert before is not None
    print(f"leak check: {done} answers in {time.perf_counter() - start:.0f} s; {dict(pool.counters)}")
    for name in after:
        print(f"  {name}: {before[name]} -> {after[name]}")
    pool.close()
    return (
        after["processes"] <= before["processes"]
        and after["open files"] <= before["open files"] + 2
        and after["own MiB"] <= before["own MiB"] + 20
        and after["largest worker MiB"] <= pool.memory_limit >> 20
    )


def footprint(pool: WorkerPool) -> dict[str, int]:
    """Child processes, open files, and resident memory (MiB) of this process and its largest worker."""
    workers = [worker.process.pid for worker in pool._alive]
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    count = len(children.read_text().split()) if children.exists() else len(workers)
    files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    return {
        "processes": count,
        "open files": files,
        "own MiB": _resident(os.getpid()),
        "largest worker MiB": max(map(_resident, workers)),
    }


def _resident(pid: int) -> int:
    status = Path(f"/proc/{pid}/statm")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
