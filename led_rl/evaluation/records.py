"""Evaluation records on disk: a manifest of every setting, and one JSON line per problem, appended block by block.

A block is one (checkpoint, arm, chunk): its problem rows and then a chunk row, which commits them. A killed run leaves
at most one block without its chunk row; the next run drops that block with a warning and goes on.

    {"kind": "problem", "checkpoint": "base", "arm": "led", "chunk": 3, "problem": "gsm8k-17", "rewards": [1.0, null],
     "correct": [true, null], "thinking_tokens": [80, 95], "answer_tokens": [12, 0], "finished": [true, false],
     "prompt_ids": [...], "kept": [{"token_ids": [...], "thinking": "1110"}]}
    {"kind": "chunk", "checkpoint": "base", "arm": "led", "chunk": 3, "problems": 32, "wall_s": 4.1, "tokens": 5320}
"""

import fcntl
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError

Record = dict[str, Any]
Block = tuple[str, str, int]  # checkpoint, arm, chunk
MANIFEST, RECORDS = "manifest.json", "records.jsonl"


class EvaluationError(UserError):
    """An evaluation that cannot start or go on: what was given, and what is allowed."""


class RecordStore:
    """Append-only records in a folder; made by `open_records`, which holds the folder's lock."""

    def __init__(self, path: Path, finished: set[Block], manifest: dict[str, Any]):
        self._path = path
        self._manifest: dict[str, Any] | None = manifest
        self.finished = finished

    def append(self, rows: list[Record], chunk_row: Record) -> None:
        """Writes one block and hands it to the disk before it returns; the first one brings the manifest along."""
        if self._manifest is not None:  # not earlier: a start that fails records nothing
            _write_manifest(self._path.with_name(MANIFEST), self._manifest)
            self._manifest = None
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in (*rows, chunk_row)]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self.finished.add(_block(chunk_row))


@contextmanager
def open_records(folder: Path, manifest: Mapping[str, Any]) -> Iterator[RecordStore]:
    """The folder's records, to go on with; a new folder starts empty.

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
        agreed = _agree_on_manifest(folder, json.loads(json.dumps(manifest)))
        path = folder / RECORDS
        yield RecordStore(path, _drop_unfinished(path) if path.exists() else set(), agreed)


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


def _agree_on_manifest(folder: Path, now: dict[str, Any]) -> dict[str, Any]:
    """The manifest to write, checked against a recorded one. Checkpoints may join later; nothing may change."""
    path = folder / MANIFEST
    if path.exists():
        recorded = read_manifest(folder)
        checkpoints = recorded.get("checkpoints", {}) | now.get("checkpoints", {})
        wanted, had = flattened(now | {"checkpoints": {}}), flattened(recorded | {"checkpoints": {}})
        for label in recorded.get("checkpoints", {}).keys() & now.get("checkpoints", {}).keys():
            had[f"checkpoints.{label}"] = recorded["checkpoints"][label]["weights"]
            wanted[f"checkpoints.{label}"] = now["checkpoints"][label]["weights"]
        if changed := [key for key in sorted(had.keys() | wanted.keys()) if had.get(key) != wanted.get(key)]:
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


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


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
        finished.add(_block(rows[-1]))
        kept = end
    if left_over := path.stat().st_size - kept:
        warnings.warn(f"{path}: dropped {left_over} bytes of a block that was not finished", stacklevel=4)
        with path.open("r+b") as file:
            file.truncate(kept)
    return finished


def _block(row: Record) -> Block:
    return row["checkpoint"], row["arm"], row["chunk"]
