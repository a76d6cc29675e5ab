"""`led-rl benchmark-loss` at a size of seconds: it measures both losses and writes what it measured."""

import json

from subprocesses import BIN, run_command


def test_the_command_measures_both_losses(tmp_path):
    output = run_command(
        *[BIN / "led-rl", "benchmark-loss", "--completions", "4", "--tokens", "16", "--rounds", "3"],
        *["--output", tmp_path / "out"],
    )
    assert "sampled / vocabulary" in output
    report = json.loads((tmp_path / "out" / "benchmark-loss.json").read_text(encoding="utf-8"))
    assert report["seconds"]["n"] == report["memory"]["n"] == 3
    assert all(seconds > 0 for seconds, _ in report["measured"]["sampled"] + report["measured"]["vocabulary"])


def test_a_wrong_option_is_one_line(tmp_path):
    output = run_command(BIN / "led-rl", "benchmark-loss", "--rounds", "0", status=2)
    assert output.strip().splitlines()[-1].startswith("error: argument --rounds: expected an integer >= 1")
