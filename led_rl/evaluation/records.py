"""Evaluation records on disk: a manifest of every setting, and the graded problems, appended block by block.

A block is one (checkpoint, benchmark, arm, chunk of problems). Completions are appended as they finish
(completion_log.py) and graded once their block is whole: records.jsonl then gets a line per problem and a chunk row
that commits the block. A killed run loses the requests in flight, and the next one generates those alone. A block that
was generated and not graded, as the reward failed, is graded by the next run and not generated again.

    completions.jsonl
    {"kind": "completion", "checkpoint": "base", "benchmark": "gsm8k", "arm": "led", "chunk": 3, "problem": "17",
     "sample": 0, "seed": 123, "prompt": "...", "text": "...", "token_ids": [...], "thinking": "1110",
     "explored": "0100", "finished": true, "wall_s": 2.5, "statistics": {"rows": 80, ...}}
    {"kind": "chunk", "checkpoint": "base", "benchmark": "gsm8k", "arm": "led", "chunk": 3, "problems": 32,
     "wall_s": 4.1, "tokens": 5320}

    records.jsonl
    {"kind": "problem", "checkpoint": "base", "benchmark": "gsm8k", "arm": "led", "chunk": 3, "problem": "17",
     "gold": "18", "rewards": [1.0, null], "correct": [true, null], "extracted": ["18", null],
     "thinking_tokens": [80, 95], "answer_tokens": [12, 0], "finished": [true, false], "prompt_ids": [...],
     "kept": [{"token_ids": [...], "thinking": "1110"}]}
    {"kind": "chunk", ...}

`prompt` shows special tokens and `text` does not: it is what the reward reads. `explored` is empty where the engine
cannot say. A chunk's `wall_s` is null if its block was interrupted, or ran at the same time as others.
"""

import fcntl
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from led_rl.evaluation.rows import EvaluationError, Record, check_row

Block = tuple[str, str, str, int]  # checkpoint, benchmark, arm, chunk
MANIFEST, RECORDS, COMPLETIONS = "manifest.json", "records.jsonl", "completions.jsonl"
GRADING = ("reward", "reward_options", "correct_from", "sha256")  # of a benchmark: what a regrading may change
GROWING = ("checkpoints", "benchmarks", "arms")  # parts of the manifest that may get more entries later
NOT_COMPARED = ("environment", "comparisons")


def not_written(path: Path, error: OSError) -> EvaluationError:
    """The error of a file that could not be written, for instance on a full disk."""
    return EvaluationError(
        f"{path} cannot be written: {error.strerror}; what was generated before is kept: make room and start again"
    )


class Blocks:
    """A file of blocks, to which whole blocks are appended."""

    def __init__(self, path: Path):
        self._path = path
        self.finished = _drop_unfinished(path) if path.exists() else set()

    def append(self, rows: list[Record], chunk_row: Record) -> None:
        """Writes one block and hands it to the disk before it returns."""
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in (*rows, chunk_row)]
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise not_written(self._path, error) from error
        self.finished.add(block_of(chunk_row))


class RecordStore:
    """The records in a folder; made by `open_records`, which holds the folder's lock."""

    def __init__(self, folder: Path, manifest: dict[str, Any]):
        self.folder, self._manifest, self._written = folder, manifest, False
        self.records = Blocks(folder / RECORDS)

    def keep_records(self, rows: list[Record], chunk_row: Record) -> None:
        """Appends what was graded."""
        self.write_manifest()
        self.records.append(rows, chunk_row)

    def replace_records(self, blocks: Iterable[tuple[list[Record], Record]]) -> None:
        """Replaces all records by the given blocks, once all of them are there."""
        anew = self.folder / (RECORDS + ".tmp")
        anew.unlink(missing_ok=True)
        target = Blocks(anew)
        for rows, chunk_row in blocks:
            target.append(rows, chunk_row)
        if target.finished:
            anew.replace(self.folder / RECORDS)
            self.write_manifest()
        self.records = Blocks(self.folder / RECORDS)

    def write_manifest(self) -> None:
        """With the first row that is written, not earlier: a start that fails records nothing."""
        if not self._written:
            unfinished = (self.folder / MANIFEST).with_suffix(".tmp")
            try:
                unfinished.write_text(json.dumps(self._manifest, indent=2) + "\n", encoding="utf-8")
                unfinished.replace(self.folder / MANIFEST)
            except OSError as error:
                raise not_written(self.folder / MANIFEST, error) from error
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
    """The manifest of an evaluation's folder.

    Raises:
        OSError: there is none.
        EvaluationError: it was damaged, or edited into something else.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EvaluationError(f"{path} is no JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise EvaluationError(f"{path} is no JSON object")
    for part in (*GROWING, "settings"):
        entries = manifest.get(part, {})
        entries = [entries, *(entries.values() if part in GROWING and isinstance(entries, dict) else ())]
        if not all(isinstance(entry, dict) for entry in entries):
            raise EvaluationError(f"{path}: {part!r} is not as led-rl evaluate writes it: {manifest[part]!r:.60}")
    if not all(isinstance(each.get("path"), str) for each in manifest.get("checkpoints", {}).values()):
        raise EvaluationError(f"{path}: an entry of 'checkpoints' names no path")
    pairs = manifest.get("comparisons", [])
    if not isinstance(pairs, list) or not all(isinstance(p, list) and [type(n) for n in p] == [str] * 2 for p in pairs):
        raise EvaluationError(f"{path}: 'comparisons' is not as led-rl evaluate writes it: {pairs!r:.60}")
    return manifest


def _agree_on_manifest(folder: Path, now: dict[str, Any], regrade: bool) -> dict[str, Any]:
    """The manifest to write, checked against a recorded one: checkpoints, benchmarks and arms may join, none change."""
    path = folder / MANIFEST
    if path.exists():
        recorded = read_manifest(folder)
        wanted, had = _compared(now, recorded), _compared(recorded, now)
        changed = [key for key in sorted(had.keys() | wanted.keys()) if had.get(key) != wanted.get(key)]
        if regrade:
            changed = [key for key in changed if not (key.startswith("benchmarks.") and _is_grading(key))]
        if changed:
            listed = "; ".join(
                f"{key}: recorded {had.get(key, 'nothing')!r}, now {wanted.get(key, 'nothing')!r}" for key in changed
            )
            raise EvaluationError(
                f"{folder} holds an evaluation with other settings ({listed}); use the recorded settings, another "
                "output folder, or delete this one"
            )
        return now | {part: recorded.get(part, {}) | now.get(part, {}) for part in GROWING}
    if any((folder / name).exists() for name in (RECORDS, COMPLETIONS)):
        raise EvaluationError(
            f"{folder} holds {RECORDS} without {MANIFEST}: their settings are unknown; delete the folder"
        )
    return now


def _compared(manifest: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The settings that must agree: of what may grow, the entries that both have; of a checkpoint not its path."""
    shared = {
        part: {name: entry for name, entry in manifest.get(part, {}).items() if name in other.get(part, {})}
        for part in GROWING
    }
    rest = {key: value for key, value in manifest.items() if key not in NOT_COMPARED}
    flat = flattened(rest | shared)
    return {key: value for key, value in flat.items() if not (key.startswith("checkpoints.") and key.endswith(".path"))}


def _is_grading(key: str) -> bool:
    """Whether a flattened key of a benchmark is one of GRADING; its name may hold dots."""
    return any(f".{name}." in f"{key}." for name in GRADING)


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
            rows.append(check_row(row, path, number))
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
    """The block that a row belongs to; rows of older folders name no benchmark."""
    return row["checkpoint"], row.get("benchmark", ""), row["arm"], row["chunk"]
