"""Engines in processes of their own, as one `Engine`: several share the requests, and one that ends frees its memory.

An engine process ends with its parent, however that ends: its connection is then closed.
"""

import atexit
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from led_rl.decoding import UserError
from led_rl.engines.engine import Completion, Engine, EngineError, Request

Build = Callable[[], Engine]


@dataclass
class _Worker:
    process: Any
    connection: Connection
    capacity: int = 0
    in_flight: int = 0


class EngineProcesses:
    """`count` engines, each built by `build` in a process of its own.

    Args:
        build: picklable; what makes an engine.
        gpus_each: GPUs of one engine (its tensor-parallel size); each engine sees its own.

    Raises:
        UserError: as `build` raises it, or EngineError if a process ends.
    """

    def __init__(self, build: Build, count: int = 1, gpus_each: int = 1):
        context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        atexit.register(self.close)  # before multiprocessing's exit hook, which would wait for the engines
        for number, devices in enumerate(device_shares(count, gpus_each)):
            ours, theirs = context.Pipe()
            # a daemonic process may not start children, and a tensor-parallel engine starts some
            process = context.Process(target=_work, args=(theirs, build, devices), daemon=gpus_each == 1)
            process.name = f"engine {number}"
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))
        try:
            for worker in self._workers:
                worker.capacity = self._answer(worker)
        except UserError:
            self.close()
            raise
        self.capacity = sum(worker.capacity for worker in self._workers)

    def add(self, index: int, request: Request) -> None:
        """Hands a request to the process that has the fewest."""
        worker = min(self._workers, key=lambda each: each.in_flight)
        self._send(worker, ("add", index, request))
        worker.in_flight += 1

    def step(self) -> list[tuple[int, Completion]]:
        """Waits until some requests have finished."""
        ready = wait([worker.connection for worker in self._workers if worker.in_flight])
        finished: list[tuple[int, Completion]] = []
        for worker in self._workers:
            if worker.connection in ready:
                completions = self._answer(worker)
                worker.in_flight -= len(completions)
                finished += completions
        return finished

    def load_weights(self, checkpoint: str) -> None:
        """In every process."""
        for worker in self._workers:
            self._send(worker, ("load_weights", checkpoint))
        for worker in self._workers:
            self._answer(worker)

    def close(self) -> None:
        """Ends the processes."""
        atexit.unregister(self.close)
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = []

    def _send(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        try:
            worker.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            self._answer(worker)  # says why it ended

    def _answer(self, worker: _Worker) -> Any:
        try:
            kind, value = worker.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            worker.process.join(10)
            status = worker.process.exitcode
            how = f"status {status}" if status is None or status >= 0 else f"signal {signal.Signals(-status).name}"
            raise EngineError(
                f"the process of {worker.process.name} ended ({how}); SIGKILL is often a lack of memory"
            ) from error
        if kind == "failed":
            raise value
        return value


def device_shares(count: int, each: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of `count` engines of `each` GPUs, from what is visible here; None: leave it as it is.

    Raises:
        EngineError: fewer GPUs are visible than the engines need.
    """
    from led_rl.engines.environment import has_gpu

    if count * each == 1 or not has_gpu():
        return [None] * count
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        visible = [str(i) for i in range(torch.cuda.device_count())]
    else:
        visible = [name for name in named.split(",") if name]
    if len(visible) < count * each:
        raise EngineError(
            f"data_parallel: {count} engine{'s' * (count > 1)} of {each} GPU{'s' * (each > 1)} each need "
            f"{count * each} GPUs, and {len(visible)} are visible"
        )
    if count == 1:
        return [None]
    return [",".join(visible[i * each : (i + 1) * each]) for i in range(count)]


def _work(connection: Connection, build: Build, devices: str | None) -> None:
    """What an engine process does until its connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # this is the engine's process
    try:
        engine = build()
        connection.send(("done", engine.capacity))
        _serve(connection, engine)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException as error:
        _tell(connection, error)


def _serve(connection: Connection, engine: Engine) -> None:
    in_flight = 0
    while True:
        while not in_flight or connection.poll():
            message = connection.recv()
            if message[0] == "add":
                engine.add(message[1], message[2])
                in_flight += 1
            else:
                engine.load_weights(message[1])
                connection.send(("done", None))
        if finished := engine.step():
            in_flight -= len(finished)
            connection.send(("done", finished))


def _tell(connection: Connection, error: BaseException) -> None:
    if not isinstance(error, UserError):
        traceback.print_exc()
        told = " ".join(str(error).split())
        error = EngineError(f"the engine failed: {type(error).__name__}: {told[:300]} (traceback above)")
    try:
        connection.send(("failed", error))
        time.sleep(0.1)
    except (OSError, TypeError):
        pass
