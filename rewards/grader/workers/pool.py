"""A persistent pool of worker processes, each job under a hard wall-clock limit and a memory cap.

Workers are started with `python -m rewards.grader.workers.child`, never forked from (nor re-importing) the caller: that
is safe under torch, accelerate, threads and an unguarded `__main__`. A worker that exceeds its limits is killed and
replaced, and only its own job fails. Any thread may call `run`; a forked child gets a pool of its own.
"""

import atexit
import collections
import logging
import os
import selectors
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rewards.grader.workers.process import MEMORY_EXIT, START_LIMIT, PoolError, Worker

LOG = logging.getLogger(__name__)
LOST_PER_GOLD, LOST_PER_BATCH = 2, 5  # lost to limits in one call of `run`, before the rest is judged in haste
HASTE = 0.25  # in haste: this share of the time limit, without sympy and math-verify
CRASHES_IN_A_ROW = 50  # without a finished job in between: then the machine is at fault, not an answer


@dataclass
class _Batch:
    """One call of `run`: its jobs and results, the jobs still waiting, and the workers that are busy with it."""

    jobs: Sequence[dict[str, Any]]
    results: list[dict[str, Any]]
    waiting: collections.deque[int]
    selector: selectors.BaseSelector
    busy: set[Worker] = field(default_factory=set)
    retried: set[int] = field(default_factory=set)
    lost: collections.Counter[str] = field(default_factory=collections.Counter)  # answers lost to limits, by reason
    lost_by_gold: collections.Counter[Any] = field(default_factory=collections.Counter)

    def exhausted(self, job: dict[str, Any]) -> bool:
        """Whether answers to this gold, or all together, have cost their share: the rest is judged in haste."""
        return self.lost.total() >= LOST_PER_BATCH or self.lost_by_gold[job.get("gold")] >= LOST_PER_GOLD


class WorkerPool:
    """`run(jobs)` gives one result per job; see rewards.grader.workers.child for jobs and results.

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
        self._crashes_in_a_row = 0
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
        with selectors.DefaultSelector() as selector:
            batch = _Batch(jobs, [{} for _ in jobs], collections.deque(range(len(jobs))), selector)
            try:
                while batch.waiting or batch.busy:
                    self._hand_out(batch)
                    if not batch.waiting:
                        self._let_go_unneeded(batch)
                    now = time.monotonic()
                    patience = min((worker.deadline for worker in batch.busy), default=now) - now
                    for key, _ in selector.select(max(0.0, patience)):
                        self._collect(key.data, batch)
                    now = time.monotonic()
                    for worker in [worker for worker in batch.busy if worker.deadline < now]:
                        if not worker.starved():
                            self._fail(worker, "time limit", batch)
            finally:
                for worker in batch.busy:  # an interrupt: their answers belong to nobody
                    self._replace(worker)
        self.counters["jobs"] += len(jobs)
        if batch.lost:
            reasons = ", ".join(f"{reason} {count}" for reason, count in batch.lost.items())
            LOG.warning(
                "%d of %d answers were lost to limits (%s); they earn 0", batch.lost.total(), len(jobs), reasons
            )
        return batch.results

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

    def _hand_out(self, batch: _Batch) -> None:
        """Give waiting jobs to free workers; wait for another thread's worker only if this one has none at work."""
        while batch.waiting:
            with self._changed:
                while not self._free and not batch.busy and not self._closed:
                    self._changed.wait()
                if self._closed:
                    raise PoolError("the worker pool is closed")
                if not self._free:
                    return
                worker = next((worker for worker in self._free if worker.ready), self._free[0])
                self._free.remove(worker)
            batch.busy.add(worker)
            batch.selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
            worker.job = None
            if worker.ready:
                self._send_next(worker, batch)

    def _release(self, worker: Worker, batch: _Batch) -> None:
        batch.selector.unregister(worker.process.stdout)  # type: ignore[arg-type]
        batch.busy.discard(worker)

    def _let_go_unneeded(self, batch: _Batch) -> None:
        """Workers that are still starting are not waited for once no job is left for them."""
        for worker in [worker for worker in batch.busy if worker.job is None]:
            self._release(worker, batch)
            self._give_back(worker)

    def _send_next(self, worker: Worker, batch: _Batch) -> None:
        index = batch.waiting.popleft()
        try:
            job, limit = batch.jobs[index], self.time_limit
            if batch.exhausted(job):
                job, limit = {**job, "library": False}, HASTE * limit
            worker.send(index, job, limit)
        except OSError:  # it died idle: the end of its output shows next, and this job is not to blame
            worker.job = None
            batch.waiting.appendleft(index)

    def _collect(self, worker: Worker, batch: _Batch) -> None:
        messages = worker.receive()
        if messages is None:
            self._fail(worker, "memory limit" if worker.exit_status() == MEMORY_EXIT else "crash", batch)
            return
        for message in messages:
            if message.get("ready"):
                worker.ready = True
            elif "extend" in message:  # a library is being imported: not the answer's fault
                worker.deadline = time.monotonic() + message["extend"]
                continue
            else:
                assert worker.job is not None
                batch.results[worker.job] = message
                worker.job = None
                self._crashes_in_a_row = 0
            if batch.waiting:
                self._send_next(worker, batch)
            else:
                self._release(worker, batch)
                self._give_back(worker)

    def _fail(self, worker: Worker, reason: str, batch: _Batch) -> None:
        self._release(worker, batch)
        self._crashes_in_a_row += reason == "crash"
        if worker.job is not None and reason == "crash" and worker.job not in batch.retried:
            batch.retried.add(worker.job)  # the system may have killed the worker: the job is to blame the second time
            batch.waiting.appendleft(worker.job)
        elif worker.job is not None:
            batch.results[worker.job] = {"failure": reason}
            self.counters[reason] += 1
            batch.lost[reason] += 1
            batch.lost_by_gold[batch.jobs[worker.job].get("gold")] += 1
        self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        errors = worker.kill()
        with self._changed:
            if self._closed:
                return
            self._alive.discard(worker)
            self.counters["replaced"] += 1
        if not worker.ready or self._crashes_in_a_row > CRASHES_IN_A_ROW:
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
        messages: list[dict[str, Any]] | None = []
        with selectors.DefaultSelector() as selector:
            selector.register(worker.process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            while messages == [] and selector.select(worker.deadline - time.monotonic()):
                messages = worker.receive()
        if not messages or not messages[0].get("ready"):
            what = f"was not ready within {START_LIMIT:.0f} s" if messages == [] else "ended while starting"
            raise PoolError(f"a grading worker {what}: {worker.kill() or 'it left no message'}")
        worker.ready = True


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
