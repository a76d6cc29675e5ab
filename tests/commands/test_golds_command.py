"""`led-rl golds` from outside."""

import json

from led_rl.cli import main

GOLDS = ["7", "7", r"\frac{1}{2}", "(1, 2]", "proof", "", None, "#### 1,000", 12, "x = 3"]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_kinds_counts_shares_and_refused_golds(tmp_path, capsys):
    path = write(tmp_path / "golds.jsonl", [{"problem": "?", "answer": gold} for gold in GOLDS])
    assert main(["golds", path, "--workers", "1"]) == 1
    shown = capsys.readouterr().out
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "5" in rows["integer"].split()
    assert r"\frac{1}{2} → 1/2" in rows["fraction"]
    assert "refused (" in shown
    assert "is empty" in shown
    assert "is missing" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.rstrip().endswith("is missing")] == ["7"]


def test_letters(tmp_path, capsys):
    path = write(tmp_path / "golds.jsonl", [{"gold": "A"}, {"gold": "(B)"}])
    assert main(["golds", path, "--kind", "choice_letter"]) == 0
    assert "(B) → B" in capsys.readouterr().out


def test_a_missing_column_is_named(tmp_path, capsys):
    path = write(tmp_path / "golds.jsonl", [{"problem": "?", "label": "A"}])
    assert main(["golds", path]) == 2
    assert "none of answer, gold, solution" in capsys.readouterr().err
    assert main(["golds", path, "--column", "lable"]) == 2
    assert "no column 'lable'; columns: problem, label (set --column)" in capsys.readouterr().err
    assert main(["golds", str(tmp_path / "no.jsonl")]) == 2
    assert "does not exist" in capsys.readouterr().err
