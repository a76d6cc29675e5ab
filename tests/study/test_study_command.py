"""The whole path of `led-rl study` at its smallest size: warm-up, GRPO with LED, evaluation, layers, page."""

import json

import pytest
import yaml
from subprocesses import BIN, run_command

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
