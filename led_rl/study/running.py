"""Runs chains of jobs, several at a time, and says how far it has come; a second start goes on where a first one ended.

A job that is cut off leaves what its own command keeps: warm-up, training and evaluation go on from their last save.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError
from led_rl.engines.environment import LAUNCHED
from led_rl.study import KINDS
from led_rl.study.jobs import Job, write_settings
from led_rl.study.ledger import Ledger

STOP_S = 60.0  # a job that was asked to end may save for so long


class JobError(UserError):
    """Jobs of a study failed; what others did is recorded."""


class Runner:
    """Runs jobs of the kinds `only` as processes, `at_once` chains at a time."""

    def __init__(
        self,
        ledger: Ledger,
        at_once: int,
        total: int,
        say: Callable[[str], object] = print,
        only: Sequence[str] = KINDS,
    ):
        self._only = only
        self._ledger, self._at_once, self._say = ledger, at_once, say
        self._total, self._finished = total, 0
        self._running: dict[str, subprocess.Popen[Any]] = {}
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._left: list[Job] = []

    def run(self, chains: Sequence[Sequence[Job]]) -> None:
        """Runs what is not done yet. The chains that are left go on where a job fails.

        Raises:
            JobError: after all of them: jobs failed (names each, its log and the log's last line).
        """
        waiting = [[job for job in chain if not self._ledger.done(job)] for chain in chains]
        self._finished += sum(map(len, chains)) - sum(map(len, waiting))
        waiting = [[job for job in chain if job.kind in self._only] for chain in waiting]
        self._left = [job for chain in waiting for job in chain]
        with _sigterm_as_interrupt(), ThreadPoolExecutor(self._at_once) as pool:
            futures = [pool.submit(self._chain, chain) for chain in waiting if chain]
            failures = []
            try:
                for future in as_completed(futures):
                    if error := future.exception():
                        failures.append(str(error))
                        self._say(f"error: {error}; what does not need it goes on")
            except BaseException:
                self._stop()
                raise
        if failures:
            raise JobError("; ".join(failures))

    def _chain(self, chain: Sequence[Job]) -> None:
        for job in chain:
            if self._stopped.is_set():
                return
            self._job(job)

    def _job(self, job: Job) -> None:
        write_settings(job)
        log = self._ledger.folder / "logs" / f"{job.name.replace(' ', '_')}.log"
        log.parent.mkdir(exist_ok=True)
        self._say(f"$ {job.shown}")
        started = time.perf_counter()
        with log.open("ab") as file:
            with self._lock:
                if self._stopped.is_set():
                    return
                process = subprocess.Popen(job.command, stdout=file, stderr=file, env=self._environment())
                self._running[job.name] = process
            status = process.wait()
        seconds = time.perf_counter() - started
        with self._lock:
            del self._running[job.name]
        self._ledger.add(job, seconds, status)
        if self._stopped.is_set() and status:
            return
        if status:
            raise UserError(f"{job.name} failed with status {status}; {log} ends: {_last_line(log)}")
        with self._lock:
            self._finished += 1
            self._left.remove(job)
            left = expected(self._left, self._ledger.rows) / self._at_once
        self._say(f"[{self._finished}/{self._total}] {job.name}: {seconds:.0f} s; {duration(left)} left or more")

    def _environment(self) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // self._at_once)
        own = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
        return {"OMP_NUM_THREADS": str(threads), "WANDB_SILENT": "true", "WANDB_MODE": "offline"} | own

    def _stop(self) -> None:
        """Asks what runs to save and end."""
        with self._lock:
            self._stopped.set()
            running = list(self._running.values())
        for process in running:
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in running:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def expected(jobs: Sequence[Job], attempts: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that these jobs take one after the other: the budget's, times what finished jobs of their kind needed."""
    seconds = 0.0
    for job in jobs:
        ended = [row for row in attempts if row["kind"] == job.kind and row["status"] == 0 and row["expected"]]
        pace = sum(row["seconds"] for row in ended) / sum(row["expected"] for row in ended) if ended else 1.0
        seconds += pace * job.seconds
    return seconds


def duration(seconds: float) -> str:
    """`2 h 05 min`, `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines[-40:] if line.startswith("error:")]
    return (errors or lines or ["(nothing)"])[-1][-400:]


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that jobs are asked to end, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
