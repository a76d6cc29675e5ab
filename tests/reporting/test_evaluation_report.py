"""`led-rl report`: its files, its figures, and what the page embeds."""

import base64
import csv
import gzip
import io
import json
import os
import re
from dataclasses import asdict

import numpy as np
import pytest
from evaluation_folders import write_folder

from led_rl.cli import main as run_cli
from led_rl.evaluation.arms import sweeps
from led_rl.evaluation.summary import summarise
from led_rl.reporting.evaluation.folder import read_evaluation
from led_rl.reporting.evaluation.panels import (
    checkpoint_panels,
    length_panels,
    steps_of,
    temperature_panels,
    truncation_panels,
)
from led_rl.reporting.evaluation.report import write_evaluation_report
from led_rl.reporting.evaluation.sample_browser import sample_browser


def unpacked(packed):
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def as_text(rows):
    return json.dumps([asdict(row) for row in rows], sort_keys=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("evaluation"), benchmarks=("gsm8k", "math500"), temperatures=(0.6, 1.0), samples=3
    )


@pytest.fixture(scope="module")
def written(folder):
    return write_evaluation_report(read_evaluation(folder), folder / "out")


def test_packed_tokens_add_up_to_the_recorded_texts(folder):
    evaluation = read_evaluation(folder)
    packed = sample_browser(evaluation)
    index = unpacked(packed.index)
    chunks = [unpacked(chunk) for chunk in packed.chunks]
    at = {name: place for place, name in enumerate(index["columns"])}
    rows = dict(zip((p[:3] for p in evaluation.places), evaluation.completions(evaluation.places), strict=True))
    assert packed.shown == packed.recorded == len(index["rows"]) == len(rows) == 432
    for entry in index["rows"]:
        group = tuple(index[f"{kind}s"][entry[at[kind]]] for kind in ("benchmark", "checkpoint", "arm"))
        row = rows[group, index["problems"][entry[at["problem"]]], entry[at["sample"]]]
        chunk = chunks[entry[at["chunk"]]]
        item = chunk["items"][entry[at["position"]]]
        assert "".join(chunk["vocabulary"][token] for token in item["tokens"]) == row["text"]
        assert len(item["tokens"]) == len(row["token_ids"]) == len(item["thinking"])
        assert (item["thinking"], item["explored"]) == (row["thinking"], row["explored"])
        assert chunk["prompts"][item["prompt"]] == row["prompt"]


def test_a_page_that_would_grow_too_large_keeps_the_first_samples_and_says_so(folder):
    evaluation = read_evaluation(folder)
    whole = sum(map(len, sample_browser(evaluation).chunks)) / 1e6
    packed = sample_browser(evaluation, megabytes=0.8 * whole)
    index = unpacked(packed.index)
    assert {row[4] for row in index["rows"]} < {0, 1, 2}
    assert packed.shown == len(index["rows"]) < packed.recorded
    assert f"holds {packed.shown} of 432 completions" in packed.notes[-1]
    assert "so no completion is shown" in sample_browser(evaluation, megabytes=0.0001).notes[-1]


def test_without_a_tokenizer_texts_stay_and_the_page_says_why(tmp_path):
    made = write_folder(tmp_path, tokenizer=False, checkpoints=("base",), arms=("led",))
    packed = sample_browser(read_evaluation(made))
    assert packed.notes[0].startswith("The tokenizer of base (")
    assert all("text" in item for item in unpacked(packed.chunks[0])["items"])


def test_curves_appear_when_several_ran(folder, tmp_path):
    evaluation = read_evaluation(folder)
    assert sweeps(evaluation.arms) == {
        name: {f"{name} T 0.6": 0.6, f"{name} T 1": 1.0} for name in ("standard", "top_k_control", "led")
    }
    assert len(temperature_panels(evaluation)) == 3 * 2 * 2  # benchmarks and their mean, checkpoints, k
    panels = checkpoint_panels(evaluation)
    assert len(panels) == 3 * 2
    rows = {row.checkpoint: row for row in evaluation.rows["gsm8k"] if row.arm == "led T 1"}
    line = next(line for line in panels[0].figure.axes[0].lines if line.get_label() == "led T 1")
    assert line.get_xdata().tolist() == [100, 200]
    values = [rows[label].metrics["pass@1"].value for label in ("checkpoint-100", "checkpoint-200")]
    np.testing.assert_allclose(line.get_ydata(), values)
    single = read_evaluation(write_folder(tmp_path, checkpoints=("base",)))
    assert checkpoint_panels(single) == temperature_panels(single) == []


def test_length_shares_add_up_and_truncation_is_the_records(folder):
    evaluation = read_evaluation(folder)
    for panel in length_panels(evaluation):
        for stairs in panel.figure.axes[0].patches:
            assert stairs.get_data().values.sum() == pytest.approx(1)
    panel = truncation_panels(evaluation)[0]
    rows = [row for row in evaluation.rows["gsm8k"] if not row.is_difference]
    points = [line.get_xdata()[0] for line in panel.figure.axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, [100 * row.metrics["truncated"].value for row in rows])


def test_steps_are_read_from_all_names_or_from_none():
    assert steps_of({"checkpoint-200": 0, "checkpoint-30": 0}) == (["checkpoint-30", "checkpoint-200"], [30, 200])
    assert steps_of({"base": 0, "checkpoint-30": 0}) == (["base", "checkpoint-30"], [])


def test_the_csv_file_holds_every_figure(folder, written):
    rows = list(csv.DictReader(io.StringIO(written["CSV"].read_text())))
    evaluation = read_evaluation(folder)
    assert len(rows) == sum(len(row.metrics) for rows in evaluation.rows.values() for row in rows)
    row = next(row for row in evaluation.rows["math500"] if row.arm == "led T 1")
    found = next(r for r in rows if (r["benchmark"], r["checkpoint"], r["arm"], r["metric"])
                 == ("math500", row.checkpoint, "led T 1", "pass@1"))  # fmt: skip
    assert float(found["value"]) == pytest.approx(row.metrics["pass@1"].value)
    assert float(found["low"]) == pytest.approx(row.metrics["pass@1"].low)


def test_the_markdown_file_has_a_table_per_benchmark_and_checkpoint(written):
    text = written["Markdown"].read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        f"{benchmark}, checkpoint-{step}" for benchmark in ("gsm8k", "math500", "mean") for step in (100, 200)
    ]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_summary_is_read_where_it_is_current_and_made_where_it_is_not(tmp_path):
    made = write_folder(tmp_path, checkpoints=("base",))
    before = read_evaluation(made)
    os.utime(tmp_path / "summary.json", (1, 1))
    assert as_text(read_evaluation(made).rows[""]) == as_text(before.rows[""])
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").open()]
    assert as_text(before.rows[""]) == as_text(summarise(records))


def test_the_command_writes_everything_and_names_it(tmp_path, capsys):
    folder = write_folder(tmp_path / "evaluation", checkpoints=("base",), arms=("led",))
    assert run_cli(["report", str(folder), "--output", str(tmp_path / "new"), "--title", "A <title>"]) == 0
    said = capsys.readouterr().out
    for name in ("report.html", "report.md", "report.csv"):
        assert (tmp_path / "new" / name).is_file()
        assert str(tmp_path / "new" / name) in said
    assert "<title>A &lt;title&gt;</title>" in (tmp_path / "new" / "report.html").read_text()


def in_summary(folder, name, changes):
    """Changes a figure of the first row, or takes it out."""
    rows = json.loads((folder / "summary.json").read_text())
    metrics = rows[0]["metrics"]
    metrics[name] = metrics["pass@1"] | changes if changes is not None else None
    (folder / "summary.json").write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: None, "does not exist; give the folder"),
        (lambda folder: folder.mkdir(), "is no evaluation: it lacks manifest.json"),
        (
            lambda folder: (write_folder(folder, 1), (folder / "manifest.json").write_text("{")),
            "manifest.json is no JSON",
        ),
        (lambda folder: (write_folder(folder, 1), (folder / "summary.json").write_text('[{"a": 1}]')), "is damaged"),
        (lambda folder: (write_folder(folder, 1), in_summary(folder, "pass@x", {})), "is damaged"),
        (lambda folder: (write_folder(folder, 1), in_summary(folder, "pass@1", {"value": "x"})), "is damaged"),
        (lambda folder: (write_folder(folder, 1), in_summary(folder, "wall_s", None)), "is damaged"),
        (lambda folder: (write_folder(folder, 1), (folder / "records.jsonl").write_text("")), "no graded problem yet"),
        (
            lambda folder: (write_folder(folder, 1), (folder / "completions.jsonl").write_text("x\n{}\n")),
            "completions.jsonl line 1 is damaged",
        ),
        (
            lambda folder: (write_folder(folder, 1), (folder / "manifest.json").write_text('{"arms": [1]}')),
            "manifest.json: 'arms' is not as led-rl evaluate writes it: [1]",
        ),
        (
            lambda folder: (
                write_folder(folder, 1),
                (folder / "summary.json").unlink(),
                (folder / "summary.json").mkdir(),
            ),
            "Is a directory",
        ),
    ],
)
def test_what_is_missing_or_damaged_is_one_line(tmp_path, capsys, break_it, message):
    break_it(tmp_path / "evaluation")
    assert run_cli(["report", str(tmp_path / "evaluation")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
