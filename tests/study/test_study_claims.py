"""Claims, tables and the page, from evaluations that are written here as led-rl evaluate writes them."""

import dataclasses
import json

import numpy as np
import pytest

from led_rl.evaluation.significance import holm
from led_rl.evaluation.slopes import slopes
from led_rl.evaluation.summary import summarise, write_summary
from led_rl.study.cells import Cells, recorded_figures
from led_rl.study.claims import judge, judge_premise, verdict
from led_rl.study.jobs import evaluation_folder
from led_rl.study.loading import load_study
from led_rl.study.page import write_page
from led_rl.study.recipe import Claim, Premise
from led_rl.study.results import results, write_results

PROBLEMS, SAMPLES = 50, 64
RATES = {"standard": 0.5, "top_k_control": 0.5, "led": 0.5}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """recipes/study_collapse.yaml with recorded evaluations: temperature costs the trained model less with LED."""
    study = load_study("recipes/study_collapse.yaml", output=str(tmp_path_factory.mktemp("study")))
    for name in ("base", "standard_seed0", "standard_seed1"):
        record(study, name, np.random.default_rng(len(name) + ord(name[-1])))
    recorded_figures.cache_clear()
    return study


def record(study, name, rng):
    folder = evaluation_folder(study, name, study.recipe.problems.rows)
    folder.mkdir(parents=True)
    hard = rng.uniform(-0.2, 0.2, PROBLEMS) if rng else None
    rows = []
    for arm, setting in study.arms.items():
        temperature = setting.sampling.temperature
        slope = -0.25 if name != "base" and setting.decoding.decoding != "led" else 0.0
        if rng:
            right = rng.random((PROBLEMS, SAMPLES)) < (0.5 + hard + slope * (temperature - 0.9))[:, None]
        else:
            right = np.tile(np.arange(SAMPLES) < 6, (PROBLEMS, 1))
        for problem in range(PROBLEMS):
            rows.append(
                {
                    **{"kind": "problem", "checkpoint": name, "benchmark": "toy", "arm": arm, "chunk": 0},
                    "problem": str(problem),
                    "rewards": right[problem].astype(float).tolist(),
                    "correct": right[problem].tolist(),
                    "extracted": [None] * SAMPLES,
                    "thinking_tokens": [20 + problem % 3] * SAMPLES,
                    "answer_tokens": [9] * SAMPLES,
                    "finished": [True] * SAMPLES,
                }
            )
        chunk = {"kind": "chunk", "checkpoint": name, "benchmark": "toy", "arm": arm, "chunk": 0}
        rows.append({**chunk, "problems": PROBLEMS, "wall_s": 2.0, "tokens": 200})
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text("[]")
    return rows


def test_a_cell_s_slope_is_that_of_an_evaluation(study):
    """Against slopes.py and an ordinary least-squares fit."""
    folder = evaluation_folder(study, "base", study.recipe.problems.rows)
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    cells = Cells(study, study.recipe.problems.rows, [0, 1])
    temperatures = {name: arm.sampling.temperature for name, arm in study.arms.items() if name.startswith("led")}
    (of_pass_1, _) = slopes(rows, {"led": temperatures})
    assert cells.values("base/led", "alpha pass@1").shape == (2, PROBLEMS)
    assert cells.values("base/led", "alpha pass@1").mean() == pytest.approx(of_pass_1.alpha.value)
    means = [cells.values(f"standard/{name}", "pass@64").mean() for name in temperatures]
    fitted = np.polyfit(list(temperatures.values()), means, 1)[0]
    assert cells.values("standard/led", "alpha pass@64").mean() == pytest.approx(fitted)


def test_claims_are_judged_by_the_rule(study):
    cells = Cells(study, study.recipe.problems.rows, [0, 1])
    claims = [
        Claim(text="turned", figure="alpha pass@1", first="standard/led", second="standard/standard"),
        Claim(text="wrong way", figure="alpha pass@1", first="standard/standard", second="base/standard"),
        Claim(text="nothing", figure="alpha pass@1", first="base/led", second="base/standard"),
        Claim(text="falls", figure="alpha pass@1", first="standard/standard", expected="smaller"),
    ]
    rows = judge(claims, cells)
    assert [row["verdict"] for row in rows] == ["shown", "refuted here", "not shown at this n", "shown"]
    assert [row["seeds"] for row in rows] == [2, 2, 1, 2]
    assert rows[0]["estimate"]["value"] == pytest.approx(0.25, abs=0.03)
    p_values = [row["estimate"]["p_value"] for row in rows]
    assert [row["estimate"]["p_holm"] for row in rows] == pytest.approx(holm(p_values))


def test_a_cell_that_has_not_been_run_is_said_to_be_missing(study):
    cells = Cells(study, study.recipe.problems.rows, [0, 1, 2])
    (row,) = judge([study.recipe.claims[1]], cells)
    assert row["verdict"] == "not run yet"
    assert "estimate" not in row


@pytest.mark.parametrize(
    ("difference", "p_holm", "expected", "says"),
    [
        (0.1, 0.01, "larger", "shown"),
        (-0.1, 0.01, "larger", "refuted here"),
        (-0.1, 0.01, "smaller", "shown"),
        (0.1, 0.06, "larger", "not shown at this n"),
        (0.1, float("nan"), "larger", "not shown at this n"),
    ],
)
def test_the_rule(difference, p_holm, expected, says):
    assert verdict(difference, p_holm, expected) == says


def test_premises_are_judged_by_their_intervals():
    analysis = {
        "problems": 9,
        "latent_layers": [2, 1],
        "verdict": {"figures": {"gain": {"value": 0.02, "low": 0.01, "high": 0.03}}},
        "means": {"explored": {"value": 0.08, "low": 0.06, "high": 0.11}},
        "layers": {"without_norm": {"top2": [0.1, 0.2, 0.3, 0.995], "overlap": [0.0, 0.2, 0.4, 1.0]}},
    }

    def says(**bound):
        return judge_premise(Premise(text="", **bound), analysis)["verdict"]

    assert says(figure="explored", below=0.1) == "not shown at this n"
    assert says(figure="explored", below=0.12) == "shown"
    assert says(figure="explored", below=0.05) == "refuted here"
    assert says(figure="gain", above=0.1) == "refuted here"
    assert says(figure="final top2", above=0.99) == "shown"
    assert judge_premise(Premise(text="", figure="latent overlap", above=0.25), analysis)["verdict"] == "shown"
    assert judge_premise(Premise(text="", figure="explored", below=0.1), None)["verdict"] == "not run yet"


def test_the_page_is_made_of_the_results_file_alone(study, tmp_path):
    page, folder = tmp_path / "evidence.md", tmp_path / "evidence"
    other = load_study("recipes/study_ablation.yaml", output=str(tmp_path / "other"))
    found = results(study, "led-rl study recipes/study_collapse.yaml")
    write_results(folder, found)
    write_page(page, folder, [study, other])
    text = page.read_text()
    assert (folder / "collapse.png").stat().st_size > 10_000
    for claim in found["claims"]:
        assert f"| {claim['text']} |" in text
        assert claim["verdict"] in text
    assert "not run yet: all of it. `led-rl study" in text
    undecided = [claim for claim in found["claims"] if claim["verdict"] == "not shown at this n"]
    assert text.count("smallest effect it could have shown") == len(undecided)
    assert max(len(line) for line in text.splitlines() if not line.startswith(("|", "!", "led-rl"))) <= 120
    moved = dataclasses.replace(study, recipe=study.recipe.model_copy(update={"output": str(tmp_path / "nowhere")}))
    write_page(tmp_path / "again.md", folder, [moved, other])
    assert (tmp_path / "again.md").read_text() == text
    write_page(tmp_path / "again.md", folder, [other])
    assert "## Exploration collapse" in (tmp_path / "again.md").read_text()
    changed = study.recipe.model_copy(update={"base": "another"})
    write_page(page, folder, [dataclasses.replace(study, recipe=changed)])
    assert "The recipe has changed since this was run (base)" in page.read_text()


def test_a_number_of_the_page_is_one_of_the_records(study, tmp_path):
    rows = [
        json.loads(line)
        for line in (evaluation_folder(study, "base", study.recipe.problems.rows) / "records.jsonl").open()
    ]
    write_summary(tmp_path, summary := summarise(rows, ks=[1]))
    expected = {row.arm: row.metrics["pass@1"].value for row in summary if not row.is_difference}
    found = {row["decoding"]: row["pass@1"]["value"] for row in results(study, "")["cells"] if row["arm"] == "base"}
    assert found == pytest.approx(expected)


def test_equal_accuracies_have_no_slope(tmp_path):
    """Not one of 1e-16, which no other problem contradicts."""
    study = load_study("recipes/study_collapse.yaml", output=str(tmp_path))
    for name in ("base", "standard_seed0", "standard_seed1", "standard_seed2"):
        record(study, name, None)
    rows = judge(study.recipe.claims, Cells(study, study.recipe.problems.rows, [0, 1, 2]))
    assert {(row["estimate"]["value"], row["verdict"]) for row in rows} == {(0.0, "not shown at this n")}
