"""`led-rl grade` from outside."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from led_rl.cli import main
from led_rl.data import read_rows, to_prompts
from led_rl.evaluation.benchmarks import Benchmark, read_problems

ROWS = [
    {"id": "a", "prediction": r"<think>x</think> \boxed{1/2}", "gold": "0.5", "source": "kept"},
    {"id": "b", "prediction": r"\boxed{3}", "gold": "4"},
    {"id": "c", "prediction": "42", "gold": "42"},
    {"id": "d", "prediction": [{"role": "assistant", "content": r"\boxed{\sqrt{8}}"}], "gold": r"2\sqrt{2}"},
]


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def grade(source, target, *options):
    return main(["grade", "--input", str(source), "--output", str(target), "--workers", "1", *options])


def test_rows_pass_through_with_their_verdict(tmp_path):
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    assert grade(source, target) == 0
    graded = read(target)
    assert [row["correct"] for row in graded] == [True, False, True, True]
    assert [row["extracted"] for row in graded] == ["1/2", "3", "42", r"\sqrt{8}"]
    assert graded[0]["reason"] == "equal"
    assert [{name: row[name] for name in original} for row, original in zip(graded, ROWS, strict=True)] == ROWS


def test_bad_rows_are_reported_and_the_rest_graded(tmp_path, capsys):
    bad = ["{broken", ROWS[0], "[1]", {"id": 1, "gold": "1"}, {"id": 2, "prediction": None, "gold": "1"}, ROWS[1]]
    source, target = write(tmp_path / "in.jsonl", bad), tmp_path / "out.jsonl"
    assert grade(source, target) == 1
    assert [row["correct"] for row in read(target)] == [True, False]
    errors = capsys.readouterr().err
    assert "line 1: not JSON" in errors
    assert "line 3: a row must be an object" in errors
    assert "line 4: no column 'prediction'" in errors
    assert "line 5: prediction must be a text" in errors
    assert "2 graded: 1 correct, 1 wrong; 0 unusable golds, 4 bad rows" in errors


def test_unusable_golds_are_null(tmp_path, capsys):
    rows = [{"id": 1, "prediction": r"\boxed{1}", "gold": gold} for gold in (None, "", "None", r"\frac{1}{", "1")]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert grade(source, target) == 1
    assert [row["correct"] for row in read(target)] == [None, None, None, None, True]
    assert "line 3: unusable gold" in capsys.readouterr().err


def test_it_goes_on_where_it_stopped(tmp_path):
    source, target = write(tmp_path / "in.jsonl", ["oops", *ROWS]), tmp_path / "out.jsonl"
    grade(source, target)
    whole = target.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1, len(whole)):
        target.write_bytes(whole[:size])
        assert grade(source, target) == 1
        assert target.read_bytes() == whole


def test_it_does_not_complete_a_strangers_file(tmp_path, capsys):
    source, target = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    grade(write(tmp_path / "other.jsonl", ROWS[::-1]), target)
    before = target.read_bytes()
    assert grade(source, target) == 2
    assert "was not graded from" in capsys.readouterr().err
    assert target.read_bytes() == before
    assert grade(source, target, "--overwrite") == 0
    assert read(target)[0]["id"] == "a"
    write(target, [{"note": "mine"}])
    assert grade(source, target) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_file_errors_are_clear(tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", ROWS)
    for given, target, message in (
        (tmp_path / "nothing.jsonl", tmp_path / "out.jsonl", "is not there"),
        (tmp_path, tmp_path / "out.jsonl", "is a folder"),
        (source, source, "is the input"),
        (source, tmp_path / "no" / "out.jsonl", "folder of output"),
        (source, tmp_path, "not a file"),
    ):
        assert grade(given, target) == 2
        assert message in capsys.readouterr().err
    assert grade(source, tmp_path / "out.jsonl", "--time-limit", "0") == 2
    assert "time_limit" in capsys.readouterr().err
    assert main(["grade", "--input", str(source)]) == 2
    assert "required: --output (see led-rl grade --help)" in capsys.readouterr().err
    assert grade(source, tmp_path / "out.jsonl", "--workers", "0") == 2
    assert "expected an integer >= 1" in capsys.readouterr().err


def test_sentences_need_permission(tmp_path):
    source = write(tmp_path / "in.jsonl", [{"id": 1, "prediction": "The answer is 42.", "gold": "42"}])
    grade(source, tmp_path / "strict.jsonl")
    grade(source, tmp_path / "lenient.jsonl", "--unboxed", "statement")
    assert read(tmp_path / "strict.jsonl")[0]["correct"] is False
    assert read(tmp_path / "lenient.jsonl")[0]["correct"] is True


def test_golds_are_explained(tmp_path, capsys):
    rows = [{"id": 1, "prediction": r"\boxed{7}", "gold": gold} for gold in ("7", r"\frac{1}{2}", "(1, 2]", "", None)]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert grade(source, target, "--explain") == 1
    graded = read(target)
    assert [row["gold_kind"] for row in graded] == ["integer", "fraction", "interval", "unusable", "unusable"]
    assert [row["gold_read_as"] for row in graded][:2] == ["7", "1/2"]
    before = target.read_bytes()
    assert grade(source, target, "--explain") == 1
    assert target.read_bytes() == before
    assert grade(source, target) == 2
    assert "was not graded from" in capsys.readouterr().err
    assert grade(source, target, "--overwrite") == 1
    assert grade(source, target, "--explain") == 2
    assert "graded with --explain" in capsys.readouterr().err


def test_what_is_no_json_is_not_written(tmp_path):
    lines = [
        '{"id": NaN, "prediction": "\\\\boxed{1}", "gold": "1", "scores": [1.5, NaN, {"a": -Infinity}]}',
        '{"id": 1e999, "prediction": "\\\\boxed{1}", "gold": NaN}',
        '{"id": 3, "prediction": Infinity, "gold": "1"}',
    ]
    source, target = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    for _ in range(2):  # started again, it recognises its own rows
        assert grade(source, target) == 1

    def refuse(constant):
        raise AssertionError(constant)

    graded = [json.loads(line, parse_constant=refuse) for line in target.read_text().splitlines()]
    assert [row["id"] for row in graded] == [None, None]
    assert graded[0]["scores"] == [1.5, None, {"a": None}]
    assert [row["correct"] for row in graded] == [True, None]


@pytest.mark.parametrize(
    "prediction",
    [
        [{"role": "assistant", "content": 7}],
        [{"role": "assistant", "content": [{"type": "text", "text": 7}]}],
        [7],
        {},
        True,
    ],
)
def test_content_that_is_no_text_is_that_rows_problem(tmp_path, capsys, prediction):
    rows = [ROWS[1], {"id": "x", "prediction": prediction, "gold": "4"}, ROWS[0]]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert grade(source, target) == 1
    assert [row["correct"] for row in read(target)] == [False, True]
    assert "line 2: prediction must be a text or a list of messages" in capsys.readouterr().err


def test_files_of_other_systems_are_read_alike(tmp_path):
    content = "\ufeff" + "".join(
        json.dumps({"id": text, "problem": text, "prediction": f"{text} \\boxed{{1}}", "gold": "1"}, ensure_ascii=False)
        + end
        for text, end in (("a\u2028b\x85c", "\r\n"), ("\U0001f600", "\r\n"), ("last", ""))
    )
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(content.encode().replace(b"last", b"half \\ud83d"))
    assert grade(source, target) == 0
    ids = ["a\u2028b\x85c", "\U0001f600", "half \ufffd"]
    assert [json.loads(line)["id"] for line in target.read_bytes().split(b"\n") if line] == ids
    rows = read_rows(str(source))
    assert [row["id"] for row in rows] == ids
    assert to_prompts(rows, "in.jsonl")["prompt"][2][0]["content"] == ids[2]
    assert [problem.problem for problem in read_problems(Benchmark("own", source=str(source)))] == ids


def test_a_killed_run_leaves_a_file_that_can_be_completed(tmp_path):
    rows = [{"id": number, "prediction": f"\\boxed{{{number}}}", "gold": str(number)} for number in range(20_000)]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "led_rl.cli", "grade", "--input", source, "--output", target, "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (target.exists() and target.stat().st_size > 10_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = target.read_bytes().count(b"\n")
    assert 0 < done < len(rows)
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=300).returncode == 0
    graded = read(target)
    assert [row["id"] for row in graded] == list(range(len(rows)))
    assert all(row["correct"] for row in graded)


def test_help_is_instant():
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "led_rl.cli", "--help"], capture_output=True, text=True, check=True, env=environment
    )
    assert "grade" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not imported & {"torch", "trl", "transformers", "vllm", "sympy", "mpmath", "numpy", "tqdm"}


def test_unknown_commands(capsys):
    assert main(["grad"]) == 2
    assert "unknown command 'grad'; commands: grade" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--version"]) == 0
