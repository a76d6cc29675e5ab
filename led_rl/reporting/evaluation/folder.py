"""An evaluation's folder as reports, logs and exports read it: settings, figures, verdicts, completions."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.evaluation.arms import Arm
from led_rl.evaluation.estimates import Estimate
from led_rl.evaluation.records import COMPLETIONS, MANIFEST, RECORDS, read_manifest, read_records
from led_rl.evaluation.rows import EvaluationError, Record, check_row
from led_rl.evaluation.summary import ARM_COMPARISONS, SummaryRow, pass_ks, summarise

SUMMARY = "summary.json"


class Group(NamedTuple):
    """Where a completion belongs. `benchmark` is empty in a folder that evaluated one unnamed set of problems."""

    benchmark: str
    checkpoint: str
    arm: str


class Place(NamedTuple):
    """A completion's place: its sample of a problem in a group, and where its row stands in completions.jsonl."""

    group: Group
    problem: str
    sample: int
    offset: int  # bytes


class Verdict(NamedTuple):
    """What grading said of one completion, and its lengths in tokens."""

    correct: bool | None  # None: could not be judged, or was not graded
    reward: float | None
    extracted: str | None  # the answer that was compared, where the records tell
    thinking_tokens: int
    answer_tokens: int
    finished: bool


@dataclass(frozen=True)
class EvaluationFolder:
    """A folder that `led-rl evaluate` wrote.

    Attributes:
        rows: the summary's rows by benchmark.
        records: the problem rows of records.jsonl.
    """

    path: Path
    manifest: Mapping[str, Any]
    rows: Mapping[str, Sequence[SummaryRow]]
    records: Sequence[Record]

    @cached_property
    def by_place(self) -> dict[tuple[Group, str], Record]:
        return {(group_of(record), record["problem"]): record for record in self.records}

    @property
    def groups(self) -> list[Group]:
        return list(dict.fromkeys(group_of(record) for record in self.records))

    def verdict(self, group: Group, problem: str, sample: int) -> Verdict | None:
        """None for a completion whose block has not been graded."""
        record = self.by_place.get((group, problem))
        if record is None or sample >= len(record["rewards"]):
            return None
        extracted = record.get("extracted") or []
        return Verdict(
            record["correct"][sample],
            record["rewards"][sample],
            extracted[sample] if sample < len(extracted) else None,
            *(record[name][sample] for name in ("thinking_tokens", "answer_tokens", "finished")),
        )

    def gold(self, group: Group, problem: str) -> str | None:
        """The problem's gold as text; None in folders of older versions, and where it is none."""
        return self.by_place[group, problem].get("gold")

    @cached_property
    def places(self) -> list[Place]:
        """Where each graded completion stands in completions.jsonl; of one that is there twice, the later row."""
        found: dict[tuple[Group, str, int], Place] = {}
        for row, offset in self._rows():
            if row.get("kind") == "completion":
                key = (group_of(row), str(row["problem"]), int(row["sample"]))
                found[key] = Place(*key, offset)
        return [place for place in found.values() if self.verdict(place.group, place.problem, place.sample)]

    def completions(self, places: Sequence[Place]) -> Iterator[Record]:
        """The rows at these places, in their order; one is in memory at a time."""
        with (self.path / COMPLETIONS).open("rb") as file:
            for place in places:
                file.seek(place.offset)
                yield json.loads(file.readline())

    def _rows(self) -> Iterator[tuple[Record, int]]:
        """Each row of completions.jsonl and its offset; the half-written last line of a killed run is left out."""
        path = self.path / COMPLETIONS
        if not path.exists():
            return
        offset, broken = 0, 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if broken:
                    raise EvaluationError(f"{path} line {broken} is damaged, and lines follow it")
                try:
                    row = json.loads(line)
                except ValueError:
                    broken = number
                else:
                    yield check_row(row, path, number), offset
                offset += len(line)

    @property
    def arms(self) -> dict[str, Arm]:
        """The arms of the manifest, as they were asked for."""
        found = {}
        for name, arm in self.manifest.get("arms", {}).items():
            try:
                decoding: dict[str, Any] = {
                    key: tuple(value) if isinstance(value, list) else value for key, value in arm["decoding"].items()
                }
                found[name] = Arm(DecodingParams(**decoding), Sampling(**arm["sampling"]))
            except (KeyError, TypeError, AttributeError) as error:
                raise EvaluationError(f"{self.path / MANIFEST}: arm {name!r} is not understood: {error}") from error
        return found

    @property
    def max_tokens(self) -> int | None:
        """The longest completion that any arm allowed."""
        return max((arm.sampling.max_tokens for arm in self.arms.values()), default=None)


def group_of(row: Mapping[str, Any]) -> Group:
    return Group(row.get("benchmark") or "", row["checkpoint"], row["arm"])


def read_evaluation(folder: str | Path) -> EvaluationFolder:
    """Reads everything but the completions.

    Raises:
        EvaluationError: names the folder, or the file, that is missing or damaged.
    """
    path = Path(folder)
    if not path.is_dir():
        raise EvaluationError(f"folder {str(path)!r} does not exist; give the folder that `led-rl evaluate` wrote")
    for name in (MANIFEST, RECORDS):
        if not (path / name).is_file():
            raise EvaluationError(f"{path} is no evaluation: it lacks {name}, which `led-rl evaluate` writes")
    manifest = read_manifest(path)
    records = read_records(path)
    problems = [record for record in records if record["kind"] == "problem"]
    if not problems:
        raise EvaluationError(f"{path / RECORDS} holds no graded problem yet; finish the evaluation first")
    return EvaluationFolder(path, manifest, _summary(path, manifest, records), problems)


def _summary(path: Path, manifest: Mapping[str, Any], records: Sequence[Record]) -> dict[str, list[SummaryRow]]:
    """The rows of summary.json by benchmark; computed where the file is missing or older than the records."""
    rows: dict[str, list[SummaryRow]] = {}
    summary = path / SUMMARY
    if summary.exists() and summary.stat().st_mtime >= (path / RECORDS).stat().st_mtime:
        names = {field.name for field in fields(SummaryRow)}
        try:
            for row in _json(summary):
                metrics = {name: _estimate(values) for name, values in row["metrics"].items()}
                kept = {name: value for name, value in row.items() if name in names}
                made = SummaryRow(**kept | {"metrics": metrics})
                _check_summary(made)
                rows.setdefault(row.get("benchmark") or "", []).append(made)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise EvaluationError(f"{summary} is damaged ({error!r}); delete it: it is computed anew") from error
        return rows
    pairs = manifest.get("comparisons")
    compared = ARM_COMPARISONS if pairs is None else [(arm, baseline) for arm, baseline in pairs]
    for row in summarise(records, arm_comparisons=compared):
        rows.setdefault(row.benchmark, []).append(row)
    return rows


def _check_summary(row: SummaryRow) -> None:
    """Raises KeyError, TypeError or ValueError for a row that write_summary did not write."""
    if not (isinstance(row.checkpoint, str) and isinstance(row.arm, str)):
        raise TypeError("checkpoint and arm are texts")
    for name in ("truncated", "wall_s", "tokens_per_s"):
        row.metrics[name]
    pass_ks([row])
    for estimate in row.metrics.values():
        math.isnan(estimate.value + estimate.low + estimate.high + estimate.n)


def _estimate(values: Mapping[str, Any]) -> Estimate:
    names = {field.name for field in fields(Estimate)}
    numbers = {name: value for name, value in values.items() if name in names}
    for name in ("value", "low", "high"):
        numbers[name] = math.nan if numbers[name] is None else numbers[name]
    if numbers.get("p_value") is not None and numbers.get("detectable") is None:
        numbers["detectable"] = math.nan  # tested, but what could be detected is unknown; JSON has no NaN
    return Estimate(**numbers)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EvaluationError(f"{path} is no JSON: {error}") from error
