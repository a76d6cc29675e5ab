"""Training over sampled supports works with every loss of TRL's, a reference model, adapters, and split batches."""

import json
import math
import sys

import pytest
from conftest import save_tiny_model
from subprocesses import ROOT, run_command

NAMES = (
    "grpo", "bnpo", "dr_grpo", "dapo", "luspo", "sapo", "cispo", "sequence level", "token_mask", "reference model",
    "adapter", "adapter with reference", "gradient checkpointing", "batches split and used twice", "top entropies",
    "control", "standard, truncated",
)  # fmt: skip
AT_ONCE = 3  # engines of a process, a gigabyte and more each


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("losses")
    model = save_tiny_model(folder / "model", layers=8, seed=3)
    probe = ROOT / "tests" / "probes" / "losses_probe.py"
    facts = {}
    for names in (NAMES[i : i + AT_ONCE] for i in range(0, len(NAMES), AT_ONCE)):
        run_command(sys.executable, probe, model, folder, folder / "facts.json", *names, timeout=600)
        facts |= json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return facts


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(facts, name):
    found = facts[name]
    assert "error" not in found, found["error"]
    assert found["moved"] > 0.9 * found["trained"]
    inside, empty = found["seen"]
    assert inside > 100
    assert empty == 0  # answers are truncated here, so that every token has a support
    for entry in found["logged"]:
        assert math.isfinite(entry["loss"])
        assert entry["grad_norm"] > 0
        assert 0 < entry["led/support_mass"] <= 1 + 1e-5
    if "reference" in name:
        assert all(entry["kl"] >= -1e-6 for entry in found["logged"])
