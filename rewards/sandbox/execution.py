"""Runs one program on one input in a sandbox, and kills it beyond its limits on time, memory and output."""

import json
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from rewards.sandbox.command import Limits, Sandbox

STATUSES = ("done", "error", "time limit", "memory limit", "output limit")
CHECK_EVERY = 0.05  # seconds between two looks at the memory of all processes
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Run:
    """How a program ended, and what it wrote to standard output."""

    status: str  # one of STATUSES
    output: bytes
    seconds: float


def run_program(
    sandbox: Sandbox,
    program: str,
    given: str,
    function: str | None = None,
    limits: Limits | None = None,
    prelude: str = "",
) -> Run:
    """Runs `program` with `given` as its input.

    Args:
        function: call this function (or method of `Solution`) with a JSON value per line of `given`; the output is
            then what it returned, as JSON.
        prelude: runs first, in the same scope.
    """
    limits = limits or Limits()
    numbers = {
        "memory": limits.memory_mb << 20,
        "cpu_seconds": int(limits.seconds) + 1,
        "processes": limits.processes,
        "file_bytes": limits.scratch_mb << 20,
    }
    order = json.dumps({"prelude": prelude, "program": program, "function": function, "limits": numbers}).encode()
    started = time.monotonic()
    process = subprocess.Popen(
        sandbox.command(limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
        **sandbox.popen_arguments(),
    )
    try:
        data = b"%08d" % len(order) + order + given.encode("utf-8", "surrogateescape")
        status, output = _attend(process, data, limits, started + limits.seconds)
    finally:
        _end(process)
    if status == "done" and process.returncode != 0:
        status = "error"
    return Run(status, output, time.monotonic() - started)


def _attend(process: subprocess.Popen, data: bytes, limits: Limits, deadline: float) -> tuple[str, bytes]:
    """Feeds and reads the process until it closes its output or breaks a limit."""
    assert process.stdin is not None
    assert process.stdout is not None
    left, size = memoryview(data), 0
    pieces: list[bytes] = []
    next_check = time.monotonic() + CHECK_EVERY
    with selectors.DefaultSelector() as selector:
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if now >= deadline:
                return "time limit", b"".join(pieces)
            if now >= next_check:
                if tree_memory(process.pid) > limits.memory_mb << 20:
                    return "memory limit", b"".join(pieces)
                next_check = now + CHECK_EVERY
            for key, _ in selector.select(min(CHECK_EVERY, deadline - now)):
                if key.fileobj is process.stdin:
                    try:
                        left = left[os.write(process.stdin.fileno(), left[: 1 << 16]) :]
                    except BrokenPipeError:  # the program does not read its input
                        left = left[len(left) :]
                    if not left:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:
                    return _ended(process, limits, deadline), b"".join(pieces)
                pieces.append(piece)
                size += len(piece)
                if size > limits.output_bytes:
                    return "output limit", b"".join(pieces)


def _ended(process: subprocess.Popen, limits: Limits, deadline: float) -> str:
    """After the output was closed: waits for the end, under the same limits."""
    while True:
        now = time.monotonic()
        if now >= deadline:
            return "time limit"
        try:
            process.wait(min(CHECK_EVERY, deadline - now))
        except subprocess.TimeoutExpired:
            if tree_memory(process.pid) > limits.memory_mb << 20:
                return "memory limit"
            continue
        return "done"


def _end(process: subprocess.Popen) -> None:
    """Kills the process; the sandbox and all that runs in it go with it (--die-with-parent, its own process ids)."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def tree_memory(root: int) -> int:
    """Bytes of resident memory of a process and all its descendants; of those that are still there."""
    total, waiting = 0, [root]
    while waiting:
        process = Path("/proc", str(waiting.pop()))
        try:
            total += int((process / "statm").read_bytes().split()[1]) * PAGE
            for task in (process / "task").iterdir():
                waiting += map(int, (task / "children").read_bytes().split())
        except (OSError, IndexError):
            continue
    return total
