"""The W&B workspace, built and not sent."""

import importlib.util
import json
import re

import pytest

from led_rl.cli import main as run_cli
from led_rl.reporting.dashboard import SECTIONS

needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="needs wandb-workspaces: pip install led-rl[dashboard]"
)


@needs_workspaces
def test_the_workspace_has_a_section_for_every_view(capsys):
    assert run_cli(["dashboard", "somebody/led-rl", "--name", "LED", "--dry-run"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["entity"], made["project"], made["displayName"]) == ("somebody", "led-rl", "LED")
    sections = made["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections][: len(SECTIONS)] == list(SECTIONS)
    for section, panels in zip(sections, SECTIONS.values(), strict=False):
        for drawn, (title, what) in zip(section["panels"], panels.items(), strict=True):
            config = drawn["config"]
            assert config["chartTitle"] == title
            if isinstance(what, str):
                assert config["metricRegex"] == what
                assert config["useMetricRegex"] is True
            else:
                assert config["metrics"] == list(what)
    split = next(panel for s in sections for panel in s["panels"] if panel["config"]["chartTitle"] == "split")
    assert split["config"]["plotType"] == "stacked-area"


@needs_workspaces
def test_without_a_login_or_network_it_says_so_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    assert run_cli(["dashboard", "somebody/led-rl"]) == 2
    error = capsys.readouterr().err
    assert "W&B did not take the workspace of somebody/led-rl" in error
    assert "Traceback" not in error


def test_a_project_without_its_entity_is_refused(capsys):
    assert run_cli(["dashboard", "led-rl", "--dry-run"]) == 2
    assert capsys.readouterr().err == (
        "error: argument ENTITY/PROJECT: expected two names with a slash between, got 'led-rl'\n"
    )


def test_the_regular_expressions_find_what_is_logged():
    for what, found, left_out in (
        (SECTIONS["Evaluation"]["pass@1"], "evaluation/gsm8k/pass@1", "evaluation/pass@16"),
        (SECTIONS["Evaluation"]["pass@k"], "evaluation/pass@16", "evaluation/pass@1"),
        (SECTIONS["Evaluation"]["differences of pass@1"], "evaluation/pass@1 minus standard", "evaluation/pass@1"),
        (SECTIONS["LED"]["chosen depth"], "led/depth_3", "led/depth"),
    ):
        assert re.search(what, found)
        assert not re.search(what, left_out)
