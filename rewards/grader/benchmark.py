"""`led-rl benchmark-grader`: accuracy, time and safety of math_answer, beside math-verify called as TRL calls it."""

import argparse
import json
import math
import os
import random
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.grader.hostile_answers import HOSTILE
from rewards.grader.workers.pool import WorkerPool

CASES = Path(__file__).resolve().parents[2] / "tests" / "rewards" / "cases"
HOSTILE_SHARE = 0.03
LIBRARY_LIMIT = 15.0  # seconds: above the library's own time-outs of 10 s for parsing and 5 s for comparing


@dataclass(frozen=True)
class Case:
    """`correct` is None for a hostile answer: it only has to end, and to earn nothing."""

    gold: str
    prediction: str
    correct: bool | None
    kind: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 1 when a measure is missed."""
    if arguments and list(arguments) == ["--library-worker"]:
        return _library_worker()
    parser = argparse.ArgumentParser("led-rl benchmark-grader", description=__doc__)
    parser.add_argument(
        "--cases", type=Path, default=CASES, help="folder of JSONL files {gold, prediction, correct, kind}"
    )
    parser.add_argument("--limit", type=int, help="ordinary cases to draw (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", action=argparse.BooleanOptionalAction, default=True, help="also run math-verify")
    parser.add_argument("--answers", type=int, default=0, help="leak check over this many answers")
    options = parser.parse_args(arguments)
    ordinary = load_cases(options.cases)
    if options.limit:
        ordinary = random.Random(options.seed).sample(ordinary, min(options.limit, len(ordinary)))
    mixed = mix_in_hostile(ordinary, options.seed)
    passed = True
    print(
        f"{len(ordinary)} ordinary and {len(mixed) - len(ordinary)} hostile answers, one worker, one answer at a time"
    )
    results = measure(mixed, WorkerPool(1))
    passed &= report("math_answer", mixed, results)
    if options.library:
        command = [sys.executable, "-m", "rewards.grader.benchmark", "--library-worker"]
        report("math-verify, as TRL", mixed, measure(mixed, WorkerPool(1, LIBRARY_LIMIT, command=command)))
    if options.answers:
        passed &= leak_check(mixed, options.answers)
    return 0 if passed else 1


def load_cases(folder: Path) -> list[Case]:
    """Every row of the JSONL files in a folder, or of one file."""
    others = ("choice_letter", "unboxed_")  # cases of choice_letter, and of answers without a box
    files = sorted(file for file in folder.glob("*.jsonl") if not file.stem.startswith(others))
    files = files if folder.is_dir() else [folder]
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    if not rows:
        raise SystemExit(f"no cases in {folder}")
    return [Case(row["gold"], row["prediction"], row["correct"], row["kind"]) for row in rows]


def mix_in_hostile(ordinary: list[Case], seed: int = 0, share: float = HOSTILE_SHARE) -> list[Case]:
    """The cases in random order, `share` of them hostile answers to golds of the others."""
    draw = random.Random(seed)
    count = max(1, round(len(ordinary) * share / (1 - share)))
    hostile = [
        Case(draw.choice(ordinary).gold, f"\\boxed{{{answer}}}", None, "hostile")
        for answer in (HOSTILE * (count // len(HOSTILE) + 1))[:count]
    ]
    mixed = [*ordinary, *hostile]
    draw.shuffle(mixed)
    return mixed


def measure(cases: Iterable[Case], pool: WorkerPool) -> list[tuple[bool | None, float]]:
    """Verdict and wall-clock seconds of each case, one after the other."""
    results = []
    for case in cases:
        start = time.perf_counter()
        (result,) = pool.run([{"op": "grade", "text": case.prediction[-50_000:], "gold": case.gold, "unboxed": "none"}])
        results.append((result.get("correct", False), time.perf_counter() - start))
    pool.close()
    return results


def report(name: str, cases: list[Case], results: list[tuple[bool | None, float]]) -> bool:
    """Prints one block of figures; returns whether the measures are reached."""
    judged = [(case, verdict, seconds) for case, (verdict, seconds) in zip(cases, results, strict=True)]
    ordinary = [entry for entry in judged if entry[0].correct is not None]
    false_positives = [case for case, verdict, _ in ordinary if verdict and not case.correct]
    false_negatives = [case for case, verdict, _ in ordinary if not verdict and case.correct]
    hostile = [seconds for case, _, seconds in judged if case.correct is None]
    accuracy = 1 - (len(false_positives) + len(false_negatives)) / len(ordinary)
    usual, everything = [seconds for _, _, seconds in ordinary], [seconds for _, _, seconds in judged]
    p50, p99 = quantile(usual, 0.5), quantile(everything, 0.99)
    print(f"{name}:")
    print(f"  accuracy {accuracy:.4f} (n = {len(ordinary)}), {len(false_positives)} false positives, "
          f"{len(false_negatives)} false negatives")  # fmt: skip
    print(f"  ordinary: p50 {p50 * 1e3:.2f} ms, p99 {quantile(usual, 0.99) * 1e3:.1f} ms")
    print(f"  with hostile ones: p50 {quantile(everything, 0.5) * 1e3:.2f} ms, p99 {p99 * 1e3:.1f} ms")
    print(f"  slowest hostile {max(hostile):.2f} s; all together {sum(everything):.1f} s")
    return accuracy >= 0.99 and not false_positives and p50 <= 0.005 and p99 <= 0.3 and max(hostile) <= 1.0


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


def _library_worker() -> int:
    """Answers the pool's jobs with math-verify called as TRL's accuracy_reward does, the gold parsed as it stands."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    extraction = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True), boxed_match_priority=0, try_extract_without_anchor=False
    )

    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message), flush=True)

    send({"ready": True})
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for line in sys.stdin:
        job = json.loads(line)
        gold = parse(job["gold"], parsing_timeout=10)
        if not gold:
            send({"correct": None})
            continue
        answer = parse(job["text"], extraction_config=[extraction], extraction_mode="first_match", parsing_timeout=10)
        send({"correct": bool(verify(gold, answer, timeout_seconds=5))})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
