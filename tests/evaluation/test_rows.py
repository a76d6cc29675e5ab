"""Rows that were edited or damaged are an error that names file, line and key."""

import json
import math

import pytest
from evaluation_folders import write_folder

from led_rl.cli import main as run_cli
from led_rl.evaluation.rows import check_row
from led_rl.reporting.evaluation.folder import read_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("rows"), problems=2, samples=2, checkpoints=("base",), arms=("led",))


def first(folder, name):
    return json.loads((folder / name).read_text().splitlines()[0])


CHANGES = [
    ("kind", "odd"), ("checkpoint", 5), ("checkpoint", {}), ("benchmark", []), ("arm", None), ("chunk", "0"),
    ("chunk", -1), ("chunk", True), ("problem", 5),
]  # fmt: skip
OF_PROBLEMS = [
    ("rewards", []), ("rewards", ["x", 1]), ("rewards", {}), ("correct", [True]), ("correct", [1, 0]),
    ("extracted", ["a"]), ("thinking_tokens", ["a", 1]), ("answer_tokens", [-1, 2]), ("finished", [None, True]),
    ("gold", 5),
]  # fmt: skip
OF_COMPLETIONS = [
    ("sample", -1), ("sample", "0"), ("seed", 2**70), ("prompt", None), ("text", 5), ("token_ids", ["a"]),
    ("token_ids", [-1]), ("token_ids", 5), ("thinking", []), ("explored", 1), ("finished", 1), ("statistics", 5),
]  # fmt: skip
CASES = [("records.jsonl", *change) for change in CHANGES + OF_PROBLEMS]
CASES += [("completions.jsonl", *change) for change in CHANGES + OF_COMPLETIONS]


@pytest.mark.parametrize(("name", "key", "value"), CASES)
def test_a_row_that_was_not_written_so(folder, name, key, value):
    row = first(folder, name)
    assert check_row(row, folder / name, 1) is row
    for changed in (row | {key: value}, {other: row[other] for other in row if other != key}):
        if key in changed or key not in ("benchmark", "extracted", "gold", "seed", "token_ids", "explored",
                                         "statistics"):  # fmt: skip
            with pytest.raises(ValueError, match=rf"{name} line 7 is no row that led-rl evaluate writes: .*{key}"):
                check_row(changed, folder / name, 7)
        else:  # an older version's
            check_row(changed, folder / name, 7)


@pytest.mark.parametrize("row", [None, 5, "x", [], {}, {"kind": None}, {"kind": []}])
def test_what_is_no_row(row, tmp_path):
    with pytest.raises(ValueError, match="its kind is none of chunk, problem, completion"):
        check_row(row, tmp_path / "x", 1)


@pytest.mark.parametrize("name", ["records.jsonl", "completions.jsonl"])
@pytest.mark.parametrize("line", ["null", "[1]", '{"kind": "problem"}', '{"kind": "completion", "arm": "a"}'])
def test_reports_and_exports_name_the_row(folder, tmp_path, capsys, name, line):
    write_folder(tmp_path, problems=1, samples=1, checkpoints=("base",), arms=("led",))
    (tmp_path / name).write_text(f"{line}\n" + (tmp_path / name).read_text())
    for command in (["report", str(tmp_path)], ["export", str(tmp_path), "--to", "parquet", str(tmp_path / "p")]):
        assert run_cli(command) == 2
        printed = capsys.readouterr().err
        assert f"{name} line 1 is no row that led-rl evaluate writes" in printed
        assert printed.count("\n") == 1


def test_completions_that_could_not_be_judged_have_a_report(tmp_path):
    write_folder(tmp_path, problems=2, samples=2, checkpoints=("base",), arms=("led",))
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "problem":
            row |= {"rewards": [None] * 2, "correct": [None] * 2, "extracted": [None] * 2}
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_cli(["report", str(tmp_path)]) == 0
    (found,) = read_evaluation(tmp_path).rows[""]
    assert math.isnan(found.metrics["pass@1"].value)
    assert found.metrics["avg@2"] == found.metrics["pass@1"] or math.isnan(found.metrics["avg@2"].value)
