"""A persistent pool of worker processes, each job under a hard wall-clock limit and a memory cap.

Workers are started with `python -m rewards.worker`, never forked from (nor re-importing) the caller: that is safe under
torch, accelerate, threads and an unguarded `__main__`. A worker that exceeds its limits is killed and replaced, and
only its own job fails. Any thread may call `run`; a forked child gets a pool of its own.
"""

import atexit
import collections
import json
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)
START_LIMIT = 60.0  # seconds until a started worker must have reported for duty
RESTARTS_IN_A_ROW = 20  # workers lost without one finished job in between: the machine is broken, not an answer


class PoolError(RuntimeError):
    """Worker processes cannot be started. Training must stop: without workers every reward would be wrong."""


class Worker:
    """One worker process and the JSON lines that go to and come from it."""

    def __init__(self, memory_limit: int, time_limit: float, command: Sequence[str] | None = None) -> None:
        package_root = str(Path(__file__).resolve().parent.parent)
        environment = {
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONSTARTUP", "PYTHONINSPECT")},
            "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        default = [sys.executable, "-m", "rewards.worker", str(memory_limit), str(time_limit)]
        try:
            self.process = subprocess.Popen(
                list(command or default),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                bufsize=0,
                start_new_session=True,  # Ctrl-C in the terminal is the caller's to handle
            )
        except OSError as error:
            raise PoolError(f"cannot start a grading worker: {error}") from error
        self.ready = False
        self.deadline = time.monotonic() + START_LIMIT
        self.job: int | None = None
        self._received = b""

    def send(self, job: int, message: dict[str, Any], limit: float) -> None:
        """Raises OSError when the worker has died."""
        self.job = job
        self.deadline = time.monotonic() + limit
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[os.write(self.process.stdin.fileno(), data) :]  # type: ignore[union-attr]

    def receive(self) -> list[dict[str, Any]] | None:
        """Whole messages that have arrived, after a selector reported some; None when the worker has died."""
        chunk = os.read(self.process.stdout.fileno(), 1 << 16)  # type: ignore[union-attr]
        if not chunk:
            return None
        *lines, self._received = (self._received + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> str:
        """End the process and free its pipes; returns what it wrote to stderr before it was ready."""
        self.process.kill()
        self.process.wait()
        errors = ""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is self.process.stderr and not self.ready:
                errors = stream.read().decode(errors="replace")  # type: ignore[union-attr]
            stream.close()  # type: ignore[union-attr]
        return errors.strip()


class WorkerPool:
    """`run(jobs)` gives one result per job; see rewards.worker for jobs and results.

    Args:
        workers: processes.
        time_limit: wall-clock seconds of one job.
        memory_limit: bytes of address space of one worker.
        command: another program to run as worker (tests).

    Attributes:
        counters: jobs, time limits, memory limits, crashes and replaced workers since the start.
    """

    def __init__(
        self,
        workers: int,
        time_limit: float = 0.8,
        memory_limit: int = 1 << 30,
        command: Sequence[str] | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be >= 1, got {workers}")
        self.size = workers
        self.time_limit = time_limit
        self.memory_limit = memory_limit
        self.counters: collections.Counter[str] = collections.Counter()
        self._command = command
        self._free: list[Worker] = []
        self._alive: set[Worker] = set()
        self._lost_in_a_row = 0
        self._changed = threading.Condition()
        self._closed = False
        try:
            for _ in range(workers):
                self._free.append(self._start_worker())
            for worker in self._free:
                self._await_ready(worker)
        except BaseException:
            self.close()
            raise

    def run(self, jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results in the order of the jobs. A job that ends its worker has the result {"failure": reason}.

        Raises PoolError if workers can no longer be started.
        """
        results: list[dict[str, Any]] = [{} for _ in jobs]
        waiting = collections.deque(range(len(jobs)))
        busy: set[Worker] = set()
        try:
            with selectors.DefaultSelector() as selector:
                while waiting or busy:
                    self._hand_out(jobs, waiting, busy, selector)
                    if not waiting:
                        self._let_go_unneeded(busy, selector)
                    now = time.monotonic()
                    patience = min((worker.deadline for worker in busy), default=now) - now
                    for key, _ in selector.select(max(0.0, patience)):
                        self._collect(key.data, jobs, results, busy, waiting, selector)
                    now = time.monotonic()
                    for worker in [worker for worker in busy if worker.deadline < now]:
                        self._fail(worker, "time limit", results, busy, waiting, selector)
        finally:
            for worker in busy:  # an interrupt: their answers belong to nobody
                self._replace(worker)
        self.counters["jobs"] += len(jobs)
        return results

    def close(self) -> None:
        """Kill every worker. The pool cannot be used afterwards."""
        with self._changed:
            self._closed = True
            workers = list(self._alive)
            self._alive.clear()
            self._free.clear()
            self._changed.notify_all()
        for worker in workers:
            worker.kill()

    def _hand_out(self, jobs: Any, waiting: Any, busy: set[Worker], selector: selectors.BaseSelector) -> None:
        """Give waiting jobs to free workers; wait for another thread's worker only if this one has none at work."""
        while waiting:
            with self._changed:
                while not self._free and not busy and not self._closed:
                    self._changed.wait()
                if self._closed:
                    raise PoolError("the worker pool is closed")
                if not self._free:
                    return
                worker = next((worker for worker in self._free if worker.ready), self._free[0])
                self._free.remove(worker)
            busy.add(worker)
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
            worker.job = None
            if worker.ready:
                self._send_next(worker, jobs, waiting)

    def _let_go_unneeded(self, busy: set[Worker], selector: selectors.BaseSelector) -> None:
        """Workers that are still starting are not waited for once no job is left for them."""
        for worker in [worker for worker in busy if worker.job is None]:
            selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
            busy.discard(worker)
            self._give_back(worker)

    def _send_next(self, worker: Worker, jobs: Any, waiting: Any) -> None:
        index = waiting.popleft()
        try:
            worker.send(index, jobs[index], self.time_limit)
        except OSError:  # it died idle: the end of its output shows next, and this job is not to blame
            worker.job = None
            waiting.appendleft(index)

    def _collect(self, worker: Worker, jobs: Any, results: Any, busy: Any, waiting: Any, selector: Any) -> None:
        messages = worker.receive()
        if messages is None:
            reason = "memory limit" if worker.process.poll() == MEMORY_EXIT else "crash"
            self._fail(worker, reason, results, busy, waiting, selector)
            return
        for message in messages:
            if message.get("ready"):
                worker.ready = True
            elif "extend" in message:  # a library is being imported: not the answer's fault
                worker.deadline = time.monotonic() + message["extend"]
                continue
            else:
                assert worker.job is not None
                results[worker.job] = message
                worker.job = None
                self._lost_in_a_row = 0
            if waiting:
                self._send_next(worker, jobs, waiting)
            else:
                selector.unregister(worker.process.stdout)
                busy.discard(worker)
                self._give_back(worker)

    def _fail(self, worker: Worker, reason: str, results: Any, busy: Any, waiting: Any, selector: Any) -> None:
        selector.unregister(worker.process.stdout)
        busy.discard(worker)
        if worker.job is not None:
            results[worker.job] = {"failure": reason}
            self.counters[reason] += 1
            LOG.warning("a grading worker was lost to one answer (%s) and is replaced", reason)
        self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        errors = worker.kill()
        with self._changed:
            if self._closed:
                return
            self._alive.discard(worker)
            self._lost_in_a_row += 1
            self.counters["replaced"] += 1
        if not worker.ready or self._lost_in_a_row > RESTARTS_IN_A_ROW * self.size:
            self.close()
            raise PoolError(f"grading workers cannot be started: {errors or 'they die at once'}")
        self._give_back(self._start_worker())

    def _give_back(self, worker: Worker) -> None:
        with self._changed:
            if not self._closed:
                self._free.append(worker)
                self._changed.notify()

    def _start_worker(self) -> Worker:
        worker = Worker(self.memory_limit, self.time_limit, self._command)
        with self._changed:
            self._alive.add(worker)
        return worker

    def _await_ready(self, worker: Worker) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(worker.process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            arrived = selector.select(START_LIMIT)
        messages = worker.receive() if arrived else None
        if not messages or not messages[0].get("ready"):
            raise PoolError(
                f"a grading worker did not start within {START_LIMIT:.0f} s: "
                f"{worker.kill() or 'it ended without a message'}"
                if not arrived
                else f"a grading worker ended while starting: {worker.kill() or 'no message'}"
            )
        worker.ready = True


MEMORY_EXIT = 77  # exit status of a worker that ran into its memory cap

_shared: dict[tuple[Any, ...], WorkerPool] = {}
_shared_lock = threading.Lock()


def default_workers() -> int:
    """This process's share of the CPUs it may use: they are divided among the ranks of a node; at most 8."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1)
    return max(1, min(8, cpus // max(1, ranks)))


def shared_pool(workers: int | None = None, time_limit: float = 0.8, memory_limit: int = 1 << 30) -> WorkerPool:
    """The process's pool with these limits, started on first use. Raises PoolError when it cannot start."""
    key = (workers or default_workers(), time_limit, memory_limit)
    with _shared_lock:
        pool = _shared.get(key)
        if pool is None or pool._closed:
            pool = _shared[key] = WorkerPool(*key)
        return pool


def close_shared_pools() -> None:
    """Kill the workers of every shared pool; the next use starts new ones."""
    with _shared_lock:
        pools = list(_shared.values())
        _shared.clear()
    for pool in pools:
        pool.close()


def _forget_in_child() -> None:
    """A forked child must not talk to its parent's workers: it forgets them and starts its own when it needs any."""
    global _shared_lock
    _shared_lock = threading.Lock()
    for pool in _shared.values():
        for worker in pool._alive:
            worker.process.returncode = 0  # not this process's child: never wait for it, never kill it
    _shared.clear()


atexit.register(close_shared_pools)
os.register_at_fork(after_in_child=_forget_in_child)
