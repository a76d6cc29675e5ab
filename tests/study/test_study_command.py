"""The whole path of `led-rl study` at its smallest size: warm-up, GRPO with LED, evaluation, layers, page."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from subprocesses import BIN, clean_shell, run_command

from led_rl import cli
from led_rl.recipe import find_recipe
from led_rl.study.ledger import read_attempts


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Folder of a study that was run, its recipe's path and what the command printed."""
    folder = tmp_path_factory.mktemp("smoke")
    values = yaml.safe_load(find_recipe("recipes/study_training.yaml").read_text())
    values["smoke"] |= {"base": str(folder / "base"), "problems.file": str(folder / "base/test.jsonl")}
    recipe = folder / "study_small.yaml"
    recipe.write_text(yaml.safe_dump(values))
    output = run_command(*command(folder, BIN / "led-rl"), timeout=1200)
    return folder, output


def command(folder, *program):
    where = ("--output", str(folder / "runs"), "--page", str(folder / "page.md"))
    return (*program, "study", str(folder / "study_small.yaml"), "--smoke", *where)


def test_a_study_runs_from_warm_up_to_page(ran):
    folder, output = ran
    assert output.startswith("small: 1 x warm-up, 2 x evaluate, 1 x train, 1 x analyse to run")
    attempts = read_attempts(folder / "runs")
    assert all(row["status"] == 0 and row["seconds"] > 0 for row in attempts)
    assert sorted(row["kind"] for row in attempts) == ["analyse", "evaluate", "evaluate", "train", "warm-up"]
    text = (folder / "page.md").read_text()
    assert "Smoke size: it shows that the path works, and says nothing else." in text
    assert "| study | shown | refuted here | not shown at this n |" in text
    assert "\n| [Training with LED rollouts](#training-with-led-rollouts) | " in text
    (claim,) = json.loads((folder / "page/small.json").read_text())["claims"]
    assert claim["estimate"]["n"] == 4
    assert (folder / "page/small.png").exists()


def test_a_second_start_runs_nothing_and_writes_the_same_page(ran, capsys):
    folder, _ = ran
    attempts, text = read_attempts(folder / "runs"), (folder / "page.md").read_text()
    assert cli.main([*command(folder)]) == 0
    assert capsys.readouterr().out.startswith("small: nothing to run")
    assert read_attempts(folder / "runs") == attempts
    assert (folder / "page.md").read_text() == text


def test_what_is_wrong_is_one_line(ran, capsys):
    folder, _ = ran
    assert cli.main(["study", "recipes/study_nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "error: recipe 'recipes/study_nowhere.yaml' does not exist\n"
    assert cli.main(["study", "recipes/study_ablation.yaml", "--smoke", "--plan"]) == 2
    assert capsys.readouterr().err.startswith("error: recipes/study_ablation.yaml: smoke is missing")
    assert cli.main([*command(folder), "--at-once", "0"]) == 2
    assert "expected an integer >= 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--page", "evidence"], "--page: expected a file such as evidence.md, got 'evidence'"),
        (["--page", "/proc/none/evidence.md"], "error: /proc/none: cannot be written"),
        (["--page-only", "--results", "nowhere"], "--results: there is no folder 'nowhere'"),
        (["--page-only", "--plan"], "--plan: not allowed with argument --page-only"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_before_anything_runs(options, says, capsys):
    assert cli.main(["study", "recipes/study_premise.yaml", *options]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"), [("{", "not a results file"), ("[]", "it has no 'name'"), ("{}", "no 'name'")]
)
def test_a_results_file_that_is_none_is_named(tmp_path, text, says, capsys):
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence/x.json").write_text(text)
    page = ["--page-only", "--page", str(tmp_path / "evidence.md")]
    assert cli.main(["study", "recipes/study_premise.yaml", *page]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/evidence/x.json: ")
    assert says in error


def test_two_studies_of_one_output_or_of_one_base_made_in_two_ways_are_refused(tmp_path, capsys):
    values = yaml.safe_load(find_recipe("recipes/study_premise.yaml").read_text())
    other = tmp_path / "study_other.yaml"
    for changed, says in (
        ({"output": "runs/study/premise"}, "two recipes have the same output"),
        ({"warmup": values["warmup"] | {"steps": 7}}, "base 'runs/study/base' is made in two ways (`warmup`)"),
    ):
        other.write_text(yaml.safe_dump(values | changed))
        assert cli.main(["study", "--plan", "recipes/study_premise.yaml", str(other)]) == 2
        assert says in capsys.readouterr().err


def test_a_study_that_is_stopped_before_it_measures_leaves_the_recorded_results(tmp_path):
    """SIGTERM in the warm-up, which saves its state; the page and the results stay as they were."""
    values = yaml.safe_load(find_recipe("recipes/study_premise.yaml").read_text())
    values |= {"base": str(tmp_path / "base"), "output": str(tmp_path / "runs")}
    values["problems"]["file"] = str(tmp_path / "base/test.jsonl")
    recipe, page = tmp_path / "study_small.yaml", tmp_path / "page.md"
    recipe.write_text(yaml.safe_dump(values, sort_keys=False))
    recorded = json.loads(Path("docs/evidence/premise.json").read_text()) | {"name": "small"}
    (tmp_path / "page").mkdir()
    (tmp_path / "page/small.json").write_text(text := json.dumps(recorded))
    words = [BIN / "led-rl", "study", recipe, "--page", page]
    study = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_shell())
    log = tmp_path / "runs/logs/warm-up.log"
    try:
        while study.poll() is None and not (log.exists() and "steps" in log.read_text()):
            time.sleep(0.1)
    finally:
        study.terminate()
        said, _ = study.communicate(timeout=120)
    assert "small: nothing has been measured yet" in said
    assert "Traceback" not in said + log.read_text()
    assert (tmp_path / "page/small.json").read_text() == text
    assert (tmp_path / "base/warmup_state.pt").exists()
    assert f"--page {page} {recipe}" in page.read_text()
