"""Benchmarks by name: each is one small YAML file that says where its rows are, how they are asked and how graded.

recipes/benchmarks/ holds the ones that come with led_rl; one of a user's own is named by its path.
"""

import csv
import dataclasses
import hashlib
import math
import random
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from led_rl.data import EXTRACTIONS, DatasetError, extract_answer, looks_local, read_jsonl
from led_rl.evaluation.problems import ARGUMENTS, Problem
from led_rl.evaluation.rows import EvaluationError
from led_rl.recipe import RecipeError, checked, find_recipe, keys_of, read_yaml, recipe_folders

PROBLEM_COLUMNS = ("problem", "question", "Problem", "Question", "prompt_text")
ANSWER_COLUMNS = ("answer", "Answer", "gold", "final_answer", "solution", "Solution")
LETTERS = "ABCDEFGHIJ"


@dataclass
class Benchmark:
    """A benchmark's file, key by key; one without `source` says in `obtain` where its rows come from."""

    name: str = ""
    source: str | None = field(default=None, metadata={"help": "Hub id, or a local file (.jsonl, .csv)."})
    config: str | None = field(default=None, metadata={"help": "Configuration of the hub dataset."})
    split: str = field(default="test", metadata={"help": "Split of the hub dataset."})
    revision: str | None = field(default=None, metadata={"help": "Commit or tag of the hub dataset."})
    problem_column: str | None = field(default=None, metadata={"help": "What is asked; found if not named."})
    answer_column: str | None = field(default=None, metadata={"help": "The gold; found if not named."})
    id_column: str | None = field(default=None, metadata={"help": "The problem's name; default: id, else its number."})
    answer: str = field(default="auto", metadata={"help": "The gold within its column: auto, whole, last_box ..."})
    choices: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "{correct: COLUMN, incorrect: [COLUMN ...]}: options, shuffled; gold: a letter."},
    )
    shuffle_seed: int = field(default=0, metadata={"help": "Of the options' order, for each problem its own."})
    prompt: str = field(default="{problem}", metadata={"help": "User message around {problem} (and {options})."})
    reward: str = field(default="math_answer", metadata={"help": "Name of a reward, or package.module:function."})
    reward_options: dict[str, Any] = field(default_factory=dict, metadata={"help": "Options of the reward."})
    correct_from: float = field(default=1.0, metadata={"help": "Reward from which a completion is correct."})
    licence: str | None = field(default=None, metadata={"help": "Of the rows."})
    rows: int | None = field(default=None, metadata={"help": "Rows of the whole benchmark."})
    golds: str | None = field(default=None, metadata={"help": "Checksum of the golds (`golds_checksum`)."})
    obtain: str | None = field(default=None, metadata={"help": "How to get the rows, where no source gives them."})


KEYS = keys_of(Benchmark)


def find_benchmark(spec: str) -> Benchmark:
    """`NAME`, `NAME=PATH` (the rows from a local file) or the path of a benchmark's own YAML file.

    Raises:
        RecipeError, EvaluationError: no such benchmark, or a mistake in its file.
    """
    spec, named_rows, rows = spec.partition("=")
    path = Path(spec).expanduser() if spec.endswith((".yaml", ".yml")) else None
    if path is None:
        known = known_benchmarks()
        if spec not in known:
            raise EvaluationError(
                f"unknown benchmark {spec!r}; allowed: {', '.join(sorted(known))}, NAME=FILE.jsonl for a copy of one's "
                "own, or the path of a benchmark's YAML file"
            )
        path = known[spec]
    elif not path.is_file():
        path = find_recipe(spec)
    values = {key: checked(path, key, value, KEYS, "see docs/evaluation.md") for key, value in read_yaml(path).items()}
    benchmark = Benchmark(**({"name": path.stem} | values))
    for key, needed in (("prompt", "{problem}"), *([("prompt", "{options}")] if benchmark.choices else [])):
        if needed not in getattr(benchmark, key):
            raise RecipeError(f"{path}: {key} must contain {needed}; got {getattr(benchmark, key)!r}")
    _check(benchmark, path)
    if rows:
        return dataclasses.replace(benchmark, source=rows, revision=None)
    if named_rows:
        raise EvaluationError(f"benchmark {benchmark.name}: no file behind `{spec}=`")
    if benchmark.source is None:
        raise EvaluationError(
            f"benchmark {benchmark.name}: {benchmark.obtain or 'its file names no source'}; then name your copy: "
            f"--benchmarks {benchmark.name}=FILE.jsonl"
        )
    if looks_local(benchmark.source) and not Path(benchmark.source).expanduser().is_file():
        beside = path.parent / benchmark.source
        if beside.is_file():
            return dataclasses.replace(benchmark, source=str(beside))
    return benchmark


def _check(benchmark: Benchmark, path: Path) -> None:
    """Raises RecipeError for values of the right type that mean nothing."""
    choices = benchmark.choices
    options = [] if choices is None else [choices.get("correct"), *_listed(choices.get("incorrect"))]
    wrong = {
        "name: expected a text": not benchmark.name.strip(),
        f"answer must be one of {', '.join(EXTRACTIONS)}": benchmark.answer not in EXTRACTIONS,
        "correct_from: expected a finite number": not math.isfinite(benchmark.correct_from),
        "rows: expected an integer >= 1": benchmark.rows is not None and benchmark.rows < 1,
        "source: expected a hub id or a file": benchmark.source is not None and not benchmark.source.strip(),
        "revision is a hub dataset's, and source is a file": benchmark.revision is not None
        and looks_local(benchmark.source or ""),
        f"choices: expected {{correct: COLUMN, incorrect: [1 to {len(LETTERS) - 1} COLUMNS]}}": choices is not None
        and not (all(isinstance(name, str) for name in options) and 2 <= len(options) <= len(LETTERS)),
    }
    for what, applies in wrong.items():
        if applies:
            key = what.split(":")[0].split()[0]
            raise RecipeError(f"{path}: {what}; got {getattr(benchmark, key)!r}")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [None]


def known_benchmarks() -> dict[str, Path]:
    """Name -> file of the benchmarks that come with led_rl."""
    files = [path for folder in recipe_folders() for path in sorted(folder.glob("benchmarks/*.yaml"))]
    return {path.stem: path for path in reversed(files)}


def read_problems(benchmark: Benchmark, limit: int | None = None, insisted: Collection[str] = ()) -> list[Problem]:
    """The benchmark's problems as they are asked, or the first `limit` of them.

    Args:
        insisted: `problem_column`, `answer_column`: where the benchmark's own must be there. Otherwise the usual names
            do, too: copies of a benchmark rename them.

    Raises:
        DatasetError, EvaluationError: name the source, the row and what it lacks.
    """
    problems: dict[str, Problem] = {}
    columns: dict[str, str | None] = {}
    for here, row in _numbered_rows(benchmark, limit):
        if not columns:
            columns = _columns(benchmark, row, here, insisted)
        if reserved := [name for name in ARGUMENTS if name in row]:
            raise EvaluationError(f"{here}: rename the key {reserved[0]!r}: rewards have an argument of this name")
        problem = _problem(benchmark, row, columns, here, str(len(problems) + 1))
        if problem.id in problems:
            raise EvaluationError(f"{here}: repeats the id {problem.id!r}")
        problems[problem.id] = problem
    return list(problems.values())


def remarks(benchmark: Benchmark, problems: Sequence[Problem], limit: int | None) -> list[str]:
    """Why figures over these problems are not those of the whole benchmark; empty if they are."""
    if benchmark.rows is None:
        return []
    if limit is not None and limit < benchmark.rows:
        return [f"benchmark {benchmark.name}: the first {len(problems)} of {benchmark.rows} problems"]
    if len(problems) != benchmark.rows:
        return [
            f"benchmark {benchmark.name}: {len(problems)} problems, and the whole has {benchmark.rows}: its figures "
            "are not comparable with others'"
        ]
    if benchmark.golds and (found := golds_checksum(problems)) != benchmark.golds:
        return [
            f"benchmark {benchmark.name}: the golds have the checksum {found}, not {benchmark.golds}: another edition "
            "than the one its file names"
        ]
    return []


def golds_checksum(problems: Sequence[Problem]) -> str:
    """16 hex digits of a hash of the sorted golds. Ids and problem texts are left out: they differ between copies."""
    golds = sorted(str(problem.columns.get("answer", "")).lstrip("0") for problem in problems)  # 033 is 33
    return hashlib.sha256("\n".join(golds).encode()).hexdigest()[:16]


def _numbered_rows(benchmark: Benchmark, limit: int | None) -> list[tuple[str, dict[str, Any]]]:
    """Rows with the place that messages name."""
    source = benchmark.source or ""
    if looks_local(source):
        path = Path(source).expanduser()
        if path.suffix == ".csv":
            return [(f"{source}, row {number}", row) for number, row in enumerate(_csv(path, limit), 1)]
        return [(f"{source}, line {number}", row) for number, row in read_jsonl(path, limit)]
    from datasets import load_dataset

    try:
        dataset = load_dataset(source, benchmark.config, split=benchmark.split, revision=benchmark.revision)
    except Exception as error:  # the hub client raises whatever its transport does
        told = (str(error).splitlines() or [""])[0]
        raise DatasetError(
            f"benchmark {benchmark.name}: {source!r} (config {benchmark.config!r}, split {benchmark.split!r}) cannot "
            f"be loaded from the hub: {type(error).__name__}: {told}; a local copy does: --benchmarks "
            f"{benchmark.name}=FILE.jsonl"
        ) from error
    if not len(dataset):
        raise DatasetError(f"benchmark {benchmark.name}: {source!r} has no rows")
    rows = dataset.select(range(min(limit or len(dataset), len(dataset))))
    return [(f"{source}, row {number}", dict(row)) for number, row in enumerate(rows, 1)]


def _csv(path: Path, limit: int | None) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DatasetError(f"file {str(path)!r} does not exist")
    csv.field_size_limit(sys.maxsize)  # of 131072 bytes: shorter than a program's tests
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(islice(csv.DictReader(file), limit))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: not CSV in UTF-8: {error}") from error
    for number, row in enumerate(rows, 1):
        if None in row:  # what DictReader calls fields beyond the header
            raise DatasetError(
                f"{path}, row {number}: more fields than the header names; a field with a comma is quoted"
            )
    if not rows:
        raise DatasetError(f"file {str(path)!r} has no rows")
    return rows


def _columns(benchmark: Benchmark, row: dict[str, Any], here: str, insisted: Collection[str]) -> dict[str, str | None]:
    """The columns of problem and answer: as named, else the first of those that benchmarks use."""
    found = {}
    for what, named, usual in (
        ("problem", benchmark.problem_column, PROBLEM_COLUMNS),
        ("answer", benchmark.answer_column, ANSWER_COLUMNS),
    ):
        if named is not None and named not in row and usual[0] in row and f"{what}_column" not in insisted:
            named = usual[0]  # a copy with the usual names
        if named is not None and named not in row:
            raise EvaluationError(
                f"{here}: no {what} under the key {named!r}; keys: {', '.join(row)}; name it: --{what}-column KEY"
            )
        found[what] = named or next((name for name in usual if name in row), None)
    if found["problem"] is None:
        raise EvaluationError(
            f"{here}: no text under the key 'problem'; keys: {', '.join(row)}; name it: --problem-column KEY"
        )
    return found


def _problem(
    benchmark: Benchmark, row: dict[str, Any], columns: dict[str, str | None], here: str, number: str
) -> Problem:
    column = columns["problem"] or ""
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        raise EvaluationError(f"{here}: no text under the key {column!r}; keys: {', '.join(row)}")
    given = row.get(benchmark.id_column or "id", row.get("id"))
    identity = number if given is None else str(given)
    kept = {key: value for key, value in row.items() if key not in ("id", "problem", column)}
    asked = _with_columns(benchmark.prompt, row, text)
    if benchmark.choices:
        options, letter = _options(benchmark, row, here, identity)
        asked = asked.replace("{options}", "\n".join(f"({LETTERS[i]}) {option}" for i, option in enumerate(options)))
        kept["answer"] = letter
    elif (name := columns["answer"]) is not None:
        extraction = benchmark.answer if name == benchmark.answer_column else "auto"
        kept["answer"] = _answer(row.get(name), extraction, name, here)
    return Problem(identity, asked, kept | ({"problem_text": text} if asked != text else {}))


def _with_columns(prompt: str, row: dict[str, Any], problem: str) -> str:
    """The prompt with the problem, and with other columns that it names, such as {starter_code}."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        return problem if name == "problem" else match[0] if row.get(name) is None else str(row[name])

    return re.sub(r"\{(\w+)\}", value, prompt)


def _options(benchmark: Benchmark, row: dict[str, Any], here: str, identity: str) -> tuple[list[str], str]:
    """The options in an order that the problem's id and the seed fix, and the letter of the right one."""
    assert benchmark.choices is not None
    names = [benchmark.choices["correct"], *benchmark.choices["incorrect"]]
    for name in names:
        if not isinstance(row.get(name), str):
            raise EvaluationError(f"{here}: no option under the key {name!r}; keys: {', '.join(row)}")
    order = list(range(len(names)))
    random.Random(f"{benchmark.shuffle_seed}:{identity}").shuffle(order)
    return [row[names[i]].strip() for i in order], LETTERS[order.index(0)]


def _answer(value: Any, extraction: str, column: str, here: str) -> Any:
    """The gold: text is read (`#### 1,000`, a last box), numbers become text, lists stay."""
    if value is None:
        raise EvaluationError(f"{here}: no answer under the key {column!r}")
    if isinstance(value, bool | list | dict):
        return value
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    if column.lower() == "solution" and extraction == "auto" and "####" not in text and "\\boxed" in text:
        extraction = "last_box"
    answer = extract_answer(text, extraction)
    if answer is None:
        what = "nothing follows `####`" if "####" in text else f"no answer ({extraction})"
        raise EvaluationError(f"{here}: {what} under the key {column!r}")
    return answer.strip()
