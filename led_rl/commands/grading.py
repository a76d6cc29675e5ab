"""`led-rl grade`: grades the rows {id, prediction, gold} of a JSONL file, streaming and resumable."""

import argparse
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from led_rl.commands.arguments import Parser, count, number
from led_rl.data import json_row
from led_rl.decoding import UserError
from rewards.answer_text.completions import completion_texts
from rewards.golds import explain_golds
from rewards.grader.workers.pool import PoolError, close_shared_pools
from rewards.math_answer import UNBOXED, MathAnswer

ALL_GRADED, SOME_NOT_GRADED = 0, 1
BATCH = 256
COLUMNS = ("correct", "extracted", "reason")
EXPLAINED = ("gold_kind", "gold_read_as")
DESCRIPTION = """\
Grades a JSONL file of rows {"id", "prediction", "gold"}. Writes the same rows, in the same order, with the columns
correct (true, false, or null when the gold is unusable), extracted and reason. Other columns pass through; JSON has
no NaN and no infinity, so these become null. Started again with the same files, it goes on where it was stopped.

Exit status: 0 every row was graded; 1 some were not (bad rows and unusable golds are listed with their line numbers);
2 nothing could be graded (files, options, worker processes)."""


class GradingError(UserError):
    """Files that cannot be read, written, or do not belong together."""


@dataclass(frozen=True)
class Row:
    """One input row and the number of its line, from 1."""

    line: int
    columns: dict[str, Any]
    text: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = Parser("led-rl grade", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="JSONL file of rows to grade")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file to write; a part of it is completed")
    parser.add_argument("--workers", type=count, help="worker processes (default: the CPUs, at most 8)")
    parser.add_argument("--unboxed", choices=UNBOXED, default="bare", help="what may stand in for a missing box: "
                        "none; bare: a prediction that is nothing but an answer (default); statement: also a final "
                        "'the answer is ...'; formula: also the last formula")  # fmt: skip
    parser.add_argument("--time-limit", type=number, default=0.8, help="seconds for one answer (default 0.8)")
    parser.add_argument("--memory-limit-mb", type=count, default=1024, help="memory of one worker (default 1024)")
    parser.add_argument("--overwrite", action="store_true", help="start afresh instead of completing the output")
    parser.add_argument("--explain", action="store_true", help="also write what each gold was read as: the columns "
                        f"{' and '.join(EXPLAINED)}")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        reward = MathAnswer(
            unboxed=options.unboxed,
            workers=options.workers,
            time_limit=options.time_limit,
            memory_limit_mb=options.memory_limit_mb,
        )
        counts = grade_file(options.input, options.output, reward, options.overwrite, options.explain)
    except (ValueError, PoolError) as error:  # an option of the reward, or no worker can be started
        raise error if isinstance(error, UserError) else GradingError(str(error)) from error
    finally:
        close_shared_pools()
    graded = counts["correct"] + counts["wrong"]
    print(
        f"{graded} graded: {counts['correct']} correct, {counts['wrong']} wrong"
        f"; {counts['unusable']} unusable golds, {counts['bad']} bad rows"
        + (f"; {counts['lost']} answers exceeded their limits" if counts["lost"] else ""),
        file=sys.stderr,
    )
    return SOME_NOT_GRADED if counts["bad"] or counts["unusable"] else ALL_GRADED


def grade_file(
    source: Path, target: Path, reward: MathAnswer, overwrite: bool = False, explain: bool = False
) -> Counter[str]:
    """Counts of correct, wrong, unusable (gold), bad (row) and lost (limits). Raises GradingError."""
    from led_rl.terminal.progress_bar import progress_bar  # rich takes a while to import

    if not source.is_file():
        raise GradingError(f"input {source} is {'a folder' if source.is_dir() else 'not there'}")
    if target.exists() and (not target.is_file() or target.samefile(source)):
        raise GradingError(f"output {target} is {'the input' if target.is_file() else 'not a file'}")
    if not target.parent.is_dir():
        raise GradingError(f"the folder of output {target} is not there")
    counts: Counter[str] = Counter()
    added = COLUMNS + EXPLAINED * explain
    try:
        with (
            source.open("rb") as reading,
            target.open("w+b" if overwrite or not target.exists() else "r+b") as writing,
            progress_bar(source.stat().st_size, "grading", "B") as bar,
        ):
            rows = _rows(reading, counts, bar)
            _skip_finished(rows, writing, source, target, counts, added)
            reward.start()
            while batch := list(itertools.islice(rows, BATCH)):
                golds = [row.columns["gold"] for row in batch]
                verdicts = reward.judge([row.text for row in batch], golds)
                if explain:
                    readings = explain_golds(golds, workers=reward.workers)
                    explained = [dict(zip(EXPLAINED, (each.kind, each.shown), strict=True)) for each in readings]
                    verdicts = [verdict | more for verdict, more in zip(verdicts, explained, strict=True)]
                for row, verdict in zip(batch, verdicts, strict=True):
                    _count(verdict, row.line, counts)
                    line = json.dumps({**row.columns, **{name: verdict[name] for name in added}}, ensure_ascii=False)
                    writing.write(line.encode(errors="backslashreplace") + b"\n")
                writing.flush()
    except OSError as error:
        raise GradingError(str(error)) from error
    return counts


def _rows(reading: BinaryIO, counts: Counter[str], bar: Any) -> Iterator[Row]:
    for line_number, line in enumerate(reading, start=1):
        bar.advance(len(line))
        if not line.strip():
            continue
        try:
            yield _row(line_number, line)
        except ValueError as error:
            counts["bad"] += 1
            bar.write(f"line {line_number}: {error}")


def _row(line_number: int, line: bytes) -> Row:
    """Raises ValueError saying what is wrong with the line."""
    columns = _finite(json_row(line))
    missing = [name for name in ("prediction", "gold") if name not in columns]
    if missing:
        raise ValueError(f"no column {' and no column '.join(map(repr, missing))}")
    prediction = columns["prediction"]
    if isinstance(prediction, int | float) and not isinstance(prediction, bool):
        prediction = str(prediction)
    if not isinstance(prediction, str) and not _are_messages(prediction):
        raise ValueError(f"prediction must be a text or a list of messages, not {columns['prediction']!r:.60}")
    return Row(line_number, columns, completion_texts([prediction])[0])


def _are_messages(prediction: Any) -> bool:
    """Whether it is a list of chat messages, the content of the last one a text, text parts, or nothing."""
    if not isinstance(prediction, list) or not all(isinstance(message, dict) for message in prediction):
        return False
    content = prediction[-1].get("content") if prediction else None
    parts = content if isinstance(content, list) else [{"text": content or ""}]
    return all(isinstance(part, dict) and isinstance(part.get("text", ""), str) for part in parts)


def _finite(value: Any) -> Any:
    """The same JSON value with null in place of NaN and infinite numbers. Raises ValueError for too deep a value."""
    try:
        if isinstance(value, dict):
            return {key: _finite(item) for key, item in value.items()}
        if isinstance(value, list):
            return [_finite(item) for item in value]
    except RecursionError as error:
        raise ValueError("not JSON that can be written: nested too deeply") from error
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _skip_finished(
    rows: Iterator[Row], writing: BinaryIO, source: Path, target: Path, counts: Counter[str], added: tuple[str, ...]
) -> None:
    """Moves both files behind the rows that an earlier run has finished; a half-written last line is cut off."""
    end = 0
    for finished in writing:
        if not finished.endswith(b"\n"):
            break
        try:
            done = json.loads(finished)
            old = {name: value for name, value in done.items() if name not in added}
            verdict = {name: done[name] for name in added}
        except (ValueError, KeyError, AttributeError) as error:
            asked = " with --explain" if added != COLUMNS else ""
            raise GradingError(
                f"output {target} holds other than rows graded{asked}; --overwrite replaces it"
            ) from error
        row = next(rows, None)
        if row is None or {name: value for name, value in row.columns.items() if name not in added} != old:
            raise GradingError(f"output {target} was not graded from {source}; --overwrite replaces it")
        _count(verdict, row.line, counts)
        end += len(finished)
    writing.seek(end)
    writing.truncate()


def _count(verdict: dict[str, Any], line: int, counts: Counter[str]) -> None:
    if verdict["correct"] is None:
        counts["unusable"] += 1
        print(f"line {line}: {verdict['reason']}", file=sys.stderr)
    else:
        counts["correct" if verdict["correct"] else "wrong"] += 1
    counts["lost"] += verdict["reason"] in ("time limit", "memory limit", "crash")
