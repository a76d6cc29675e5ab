"""The caller's end of one grading worker: its process, its pipes, its deadline."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START_LIMIT = 60.0  # seconds until a started worker must have reported for duty
STARVED_SHARE, STARVED_FACTOR = 0.5, 3.0  # see Worker.starved
MEMORY_EXIT = 77  # exit status of a worker that ran into its memory cap


class PoolError(RuntimeError):
    """Worker processes cannot be started. Training must stop: without workers every reward would be wrong."""


class Worker:
    """One worker process and the JSON lines that go to and come from it."""

    def __init__(self, memory_limit: int, time_limit: float, command: Sequence[str] | None = None) -> None:
        package_root = str(Path(__file__).resolve().parents[3])
        environment = {
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONSTARTUP", "PYTHONINSPECT")},
            "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        default = [sys.executable, "-m", "rewards.grader.workers.child", str(memory_limit), str(time_limit)]
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
        self._sent, self._limit, self._cpu_before = time.monotonic(), limit, _cpu_seconds(self.process.pid)
        self.deadline = self._sent + limit
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

    def starved(self) -> bool:
        """Whether the job at its deadline has hardly run, because the machine is overloaded: it gets more time, up to
        STARVED_FACTOR times its limit, so that load does not turn right answers into wrong ones."""
        now, cpu = time.monotonic(), _cpu_seconds(self.process.pid)
        if (
            self.job is None
            or cpu is None
            or self._cpu_before is None
            or now > self._sent + STARVED_FACTOR * self._limit
        ):
            return False
        used = cpu - self._cpu_before
        if used >= STARVED_SHARE * self._limit:
            return False
        self.deadline = now + STARVED_SHARE * self._limit
        return True

    def exit_status(self) -> int | None:
        """Of a worker whose output has ended; None if it does not end by itself."""
        try:
            return self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> str:
        """End the process and free its pipes; returns what it wrote to stderr before it was ready."""
        if self.process.stdin is None or self.process.stdin.closed:
            return ""  # killed before
        self.process.kill()
        self.process.wait()
        errors = ""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is self.process.stderr and not self.ready:
                errors = stream.read().decode(errors="replace")  # type: ignore[union-attr]
            stream.close()  # type: ignore[union-attr]
        return errors.strip()


def _cpu_seconds(pid: int) -> float | None:
    """Processor time that a process has used; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            fields = status.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
