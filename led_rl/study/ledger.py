"""What of a study has been run: a line for every attempt at a job, with its time, exit status and commit."""

import fcntl
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError
from led_rl.study.jobs import Job, fingerprint
from led_rl.training.observation.provenance import git_revision
from led_rl.training.preflight import ROOT

FILE = "jobs.jsonl"
KEYS = ("job", "kind", "seconds", "expected", "status", "commit", "ended", "command", "fingerprint")


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
        return was_run(self.folder, self.rows, job)

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


def was_run(folder: Path, attempts: Sequence[Mapping[str, Any]], job: Job) -> bool:
    """Whether the job is among the attempts of a study's folder, and ended well.

    Raises:
        UserError: a job of this name was run with other settings.
    """
    found = [row for row in attempts if row["job"] == job.name and row["status"] == 0]
    if found and found[-1]["fingerprint"] != _digest(job):
        raise UserError(
            f"{folder}: {job.name!r} was run with other settings (then: {found[-1]['command']}; now: {job.shown}); use "
            "the same recipe, another output folder, or delete this one"
        )
    return bool(found)


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """All attempts, the earliest first; a line cut off by a crash is left out.

    Raises:
        UserError: the file cannot be read, or a whole line of it is no attempt.
    """
    path, rows = folder / FILE, []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or (missing := [key for key in KEYS if key not in row]):
            what = f"it lacks {missing[0]!r}" if isinstance(row, dict) else f"got {line[:40]!r}"
            raise UserError(f"{path}, line {number}: expected an attempt at a job; {what}")
        rows.append(row)
    return rows


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """The folder's ledger; raises UserError while another study writes there, or where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{folder}: the study cannot write there: {error.strerror}") from error
    with opened as lock:
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
