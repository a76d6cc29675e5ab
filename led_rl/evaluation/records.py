"""Evaluation records on disk: a manifest of every setting, and JSON lines appended block by block.

A block is one (checkpoint, arm, chunk). What was generated is written before it is graded: completions.jsonl holds a
line per completion, records.jsonl a line per problem with its rewards. In both files a chunk row commits the block. A
killed run leaves at most one block without its chunk row; the next run drops that block with a warning and goes on. A
block that was generated and not graded, as the reward failed, is graded by the next run and not generated again.

    records.jsonl
    {"kind": "problem", "checkpoint": "base", "arm": "led", "chunk": 3, "problem": "gsm8k-17", "rewards": [1.0, null],
     "correct": [true, null], "thinking_tokens": [80, 95], "answer_tokens": [12, 0], "finished": [true, false],
     "prompt_ids": [...], "kept": [{"token_ids": [...], "thinking": "1110"}]}
    {"kind": "chunk", "checkpoint": "base", "arm": "led", "chunk": 3, "problems": 32, "wall_s": 4.1, "tokens": 5320}

    completions.jsonl
    {"kind": "completion", "checkpoint": "base", "arm": "led", "chunk": 3, "problem": "gsm8k-17", "sample": 0,
     "seed": 123, "prompt": "...", "text": "...", "token_ids": [...], "thinking": "1110", "finished": true,
     "statistics": {"rows": 80, ...}}
    {"kind": "chunk", ...}

`prompt` shows special tokens and `text` does not: it is what the reward reads. `seed` is the block's (Sampling.seed).
"""

import fcntl
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError

Record = dict[str, Any]
Block = tuple[str, str, int]  # checkpoint, arm, chunk
MANIFEST, RECORDS, COMPLETIONS = "manifest.json", "records.jsonl", "completions.jsonl"
GRADING = ("about.reward", "about.reward_options", "correct_from", "problems.sha256")  # what a regrading may change


class EvaluationError(UserError):
    """An evaluation that cannot start or go on: what was given, and what is allowed."""


class Blocks:
    """A file of blocks, to which whole blocks are appended."""

    def __init__(self, path: Path):
        self._path = path
        self.finished = _drop_unfinished(path) if path.exists() else set()

    def append(self, rows: list[Record], chunk_row: Record) -> None:
        """Writes one block and hands it to the disk before it returns."""
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in (*rows, chunk_row)]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self.finished.add(block_of(chunk_row))

    def __iter__(self) -> Iterator[list[Record]]:
        """The rows of each finished block, its chunk row last; read one block at a time."""
        if self._path.exists():
            for rows, _ in _finished_blocks(self._path):
                yield rows


class RecordStore:
    """The records in a folder; made by `open_records`, which holds the folder's lock."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self._folder, self._manifest, self._written = folder, manifest, False
        self.records = Blocks(folder / RECORDS)
        self.completions = Blocks(folder / COMPLETIONS)

    def keep_completions(self, rows: list[Record], chunk_row: Record) -> None:
        """Appends what was generated."""
        self._write_manifest()
        self.completions.append(rows, chunk_row)

    def keep_records(self, rows: list[Record], chunk_row: Record) -> None:
        """Appends what was graded."""
        self._write_manifest()
        self.records.append(rows, chunk_row)

    def regrade(self, blocks: Iterable[tuple[list[Record], Record]]) -> None:
        """Replaces all records by the given blocks, once all of them are there."""
        if missing := self.records.finished - self.completions.finished:
            raise EvaluationError(
                f"{self._folder} cannot be graded anew: {COMPLETIONS} lacks {len(missing)} of "
                f"{len(self.records.finished)} graded blocks (an older version did not write it)"
            )
        anew = self._folder / (RECORDS + ".tmp")
        anew.unlink(missing_ok=True)
        target = Blocks(anew)
        for rows, chunk_row in blocks:
            target.append(rows, chunk_row)
        if target.finished:
            anew.replace(self._folder / RECORDS)
            self._write_manifest()
        self.records = Blocks(self._folder / RECORDS)

    def _write_manifest(self) -> None:
        """With the first row that is written, not earlier: a start that fails records nothing."""
        if not self._written:
            unfinished = (self._folder / MANIFEST).with_suffix(".tmp")
            unfinished.write_text(json.dumps(self._manifest, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(self._folder / MANIFEST)
            self._written = True


@contextmanager
def open_records(folder: Path, manifest: Mapping[str, Any], regrade: bool = False) -> Iterator[RecordStore]:
    """The folder's records, to go on with; a new folder starts empty.

    Args:
        regrade: the settings of grading (GRADING) may differ from the recorded ones.

    Raises:
        EvaluationError: another process writes there, or the settings differ from the recorded ones (names each key).
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EvaluationError(
                f"{folder} is being written by another evaluation; use another output folder"
            ) from None
        yield RecordStore(folder, _agree_on_manifest(folder, json.loads(json.dumps(manifest)), regrade))


def read_records(folder: str | Path) -> list[Record]:
    """All rows of finished blocks, problem and chunk rows alike, in the order of writing."""
    path = Path(folder) / RECORDS
    if not path.exists():
        raise EvaluationError(f"{folder} holds no evaluation records ({RECORDS})")
    records: list[Record] = []
    for rows, _ in _finished_blocks(path):
        records += rows
    return records


def read_manifest(folder: str | Path) -> dict[str, Any]:
    return json.loads((Path(folder) / MANIFEST).read_text(encoding="utf-8"))


def _agree_on_manifest(folder: Path, now: dict[str, Any], regrade: bool) -> dict[str, Any]:
    """The manifest to write, checked against a recorded one. Checkpoints may join later; nothing may change."""
    path = folder / MANIFEST
    if path.exists():
        recorded = read_manifest(folder)
        checkpoints = recorded.get("checkpoints", {}) | now.get("checkpoints", {})
        wanted, had = flattened(now | {"checkpoints": {}}), flattened(recorded | {"checkpoints": {}})
        for label in recorded.get("checkpoints", {}).keys() & now.get("checkpoints", {}).keys():
            had[f"checkpoints.{label}"] = recorded["checkpoints"][label]["weights"]
            wanted[f"checkpoints.{label}"] = now["checkpoints"][label]["weights"]
        free = GRADING if regrade else ()
        changed = [key for key in sorted(had.keys() | wanted.keys()) if had.get(key) != wanted.get(key)]
        if changed := [key for key in changed if not key.startswith(free)]:
            listed = "; ".join(
                f"{key}: recorded {had.get(key, 'nothing')!r}, now {wanted.get(key, 'nothing')!r}" for key in changed
            )
            raise EvaluationError(
                f"{folder} holds an evaluation with other settings ({listed}); use the recorded settings, another "
                "output folder, or delete this one"
            )
        now = now | {"checkpoints": checkpoints}
    elif (folder / RECORDS).exists():
        raise EvaluationError(
            f"{folder} holds {RECORDS} without {MANIFEST}: their settings are unknown; delete the folder"
        )
    return now


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _finished_blocks(path: Path) -> Iterator[tuple[list[Record], int]]:
    """Rows of each finished block and the byte at which it ends. Whatever follows the last chunk row is left out."""
    rows: list[Record] = []
    end = 0
    with path.open("rb") as file:
        broken = None
        for number, line in enumerate(file, 1):
            if broken is not None:
                raise EvaluationError(f"{path} line {broken} is damaged, and lines follow it: delete the folder")
            end += len(line)
            try:
                row = json.loads(line)
            except ValueError:
                broken = number  # the last line of a killed run, unless another line follows
                continue
            if not line.endswith(b"\n"):
                continue
            rows.append(row)
            if row["kind"] == "chunk":
                yield rows, end
                rows = []


def _drop_unfinished(path: Path) -> set[Block]:
    finished: set[Block] = set()
    kept = 0
    for rows, end in _finished_blocks(path):
        finished.add(block_of(rows[-1]))
        kept = end
    if left_over := path.stat().st_size - kept:
        warnings.warn(f"{path}: dropped {left_over} bytes of a block that was not finished", stacklevel=6)
        with path.open("r+b") as file:
            file.truncate(kept)
    return finished


def block_of(row: Record) -> Block:
    return row["checkpoint"], row["arm"], row["chunk"]
