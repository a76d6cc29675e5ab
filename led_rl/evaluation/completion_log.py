"""completions.jsonl: every completion, appended the moment it is there; what a killed run has written is kept.

Rows of several blocks may interleave. A chunk row says that a block's completions are all there, and how long they
took. The log keeps where each row lies, not the rows: texts of reasoning models fill memory.
"""

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from led_rl.evaluation.records import Block, block_of, not_written
from led_rl.evaluation.rows import EvaluationError, Record, check_row

Sample = tuple[str, int]  # problem, sample


class CompletionLog:
    """The completions of a folder.

    Attributes:
        chunks: the chunk row of each block whose completions are all there.
    """

    def __init__(self, path: Path):
        self._path = path
        self._places: dict[Block, dict[Sample, tuple[int, int]]] = {}  # byte and length of each row
        self.chunks: dict[Block, Record] = {}
        self._size = 0
        if path.exists():
            self._read()

    def append(self, row: Record) -> None:
        """Writes one completion; it outlives this process from then on."""
        self._places.setdefault(block_of(row), {})[row["problem"], row["sample"]] = self._write(row)

    def commit(self, chunk_row: Record) -> None:
        """Writes that a block's completions are all there, and hands the file to the disk."""
        self._write(chunk_row, sync=True)
        self.chunks[block_of(chunk_row)] = chunk_row

    def samples(self, block: Block) -> set[Sample]:
        """Problem and sample of the block's completions."""
        return set(self._places.get(block, ()))

    def rows(self, block: Block) -> list[Record]:
        """The block's completions, in the order of problems as they were first written, and of samples."""
        places = self._places.get(block, {})
        rows = []
        with self._path.open("rb") as file:
            for start, length in sorted(places.values()):
                file.seek(start)
                rows.append(json.loads(file.read(length)))
        return rows

    def _write(self, row: Record, sync: bool = False) -> tuple[int, int]:
        line = json.dumps(row, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        start = self._size
        with self._path.open("ab", buffering=0) as file:
            try:
                written = 0
                while written < len(line):
                    written += file.write(line[written:])
                if sync:
                    os.fsync(file.fileno())
            except OSError as error:  # a half-written line before others would make the file unreadable
                file.truncate(start)
                raise not_written(self._path, error) from error
        self._size = start + len(line)
        return start, len(line)

    def _read(self) -> None:
        """Where each row lies. A last line that was cut off by a kill is dropped, with a warning."""
        for number, start, line in _lines(self._path):
            try:
                row: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
            except ValueError:
                row = {}
            if not row:
                if start + len(line) < self._path.stat().st_size:
                    raise EvaluationError(
                        f"{self._path} line {number} is damaged, and lines follow it: delete the folder"
                    )
                warnings.warn(f"{self._path}: dropped {len(line)} bytes of a completion that was cut off", stacklevel=6)
                with self._path.open("r+b") as file:
                    file.truncate(start)
                return
            check_row(row, self._path, number)
            if row["kind"] == "chunk":
                self.chunks[block_of(row)] = row
            else:
                self._places.setdefault(block_of(row), {})[row["problem"], row["sample"]] = (start, len(line))
            self._size = start + len(line)


def read_completions(folder: str | Path) -> Iterator[Record]:
    """The completions in an evaluation's folder, one at a time, in the order of writing."""
    path = Path(folder) / "completions.jsonl"
    for number, _, line in _lines(path):
        try:
            row = json.loads(line)
        except ValueError:
            return  # the line that is being written
        if check_row(row, path, number)["kind"] == "completion":
            yield row


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, first byte and content of each line."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, start, line
            start += len(line)
