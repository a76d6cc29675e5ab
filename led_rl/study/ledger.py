"""What of a study has been run: a line for every attempt at a job, with its time, exit status and commit."""

import fcntl
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError
from led_rl.study.jobs import Job, fingerprint
from led_rl.training.observation.provenance import git_revision
from led_rl.training.preflight import ROOT

FILE = "jobs.jsonl"


class Ledger:
    """The attempts recorded in a study's folder; made by `open_ledger`, which holds the folder's lock."""

    def __init__(self, folder: Path):
        self.folder, self._lock = folder, threading.Lock()
        self.rows = read_attempts(folder)
        self._commit = commit()

    def done(self, job: Job) -> bool:
        """Whether the job has been run.

        Raises:
            UserError: a job of this name was run with other settings.
        """
        found = [row for row in self.rows if row["job"] == job.name and row["status"] == 0]
        if not found:
            return False
        if found[-1]["fingerprint"] != _digest(job):
            raise UserError(
                f"{self.folder}: {job.name!r} was run with other settings (then: {found[-1]['command']}; now: "
                f"{job.shown}); use the same recipe, another output folder, or delete this one"
            )
        return True

    def add(self, job: Job, seconds: float, status: int) -> None:
        """Records an attempt."""
        row = {
            "job": job.name,
            "kind": job.kind,
            "seconds": round(seconds, 1),
            "expected": round(job.seconds, 1),
            "status": status,
            "commit": self._commit,
            "ended": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": job.shown,
            "fingerprint": _digest(job),
        }
        with self._lock, (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            self.rows.append(row)


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """All attempts, the earliest first; a line cut off by a crash is left out."""
    path = folder / FILE
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """The folder's ledger; raises UserError while another study writes there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is being written by another study; use another output folder") from None
        yield Ledger(folder)


def commit() -> str:
    """The commit of the code that runs, with `+` if tracked files differ from it; empty outside a clone."""
    revision, changes, _ = (git_revision(ROOT) or "").partition("+")
    return revision[:10] + changes


def _digest(job: Job) -> str:
    return hashlib.sha256(fingerprint(job).encode()).hexdigest()[:16]
