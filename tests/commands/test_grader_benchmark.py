"""`led-rl benchmark-grader` from outside."""

import json

import pytest

from led_rl.cli import main


def test_one_table_of_all_graders_and_their_disagreements(tmp_path, capsys):
    rows = [
        {"gold": "7", "prediction": r"\boxed{7}", "want": True, "kind": "integer"},
        {"gold": r"3\sqrt{13}", "prediction": r"\boxed{3}", "correct": False},
        {"gold": "", "prediction": r"\boxed{7}", "correct": None},
    ]
    cases, written = tmp_path / "cases.jsonl", tmp_path / "differing.jsonl"
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["benchmark-grader", "--only", "--cases", str(cases), "--disagreements", str(written)]) in (0, 1)
    printed = capsys.readouterr().out
    for name in ("math_answer", "math-verify, as TRL", "math-verify, as lighteval", "sympy alone"):
        assert f"\n{name} " in printed
    (row,) = [row for line in written.read_text().splitlines() if (row := json.loads(line))["gold"] == r"3\sqrt{13}"]
    assert row["verdicts"]["math_answer"] is False
    assert row["verdicts"]["math-verify, as TRL"] is True  # the gold parsed as it stands is 3
    assert row["kind"] == "cases"


def test_the_grader_alone_on_its_own_cases(capsys):
    assert main(["benchmark-grader", "--peers", "none", "--limit", "60"]) in (0, 1)
    printed = capsys.readouterr().out
    assert "60 cases and" in printed
    assert "p99" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "maths"], "unknown grader 'maths'; allowed: trl, math_verify, lighteval, sympy, or none"),
        (["--cases", "missing.jsonl"], "missing.jsonl does not exist"),
        (["--only"], "argument --only: give --cases"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["benchmark-grader", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_case_that_is_none_is_named(tmp_path, capsys):
    (tmp_path / "cases.jsonl").write_text('{"gold": "1", "prediction": "1", "correct": true}\n{"gold": "1"}\n')
    assert main(["benchmark-grader", "--only", "--cases", str(tmp_path)]) == 2
    assert "cases.jsonl, line 2: no case" in capsys.readouterr().err
