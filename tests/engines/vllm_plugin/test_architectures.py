"""Each supported architecture: the engine's tables of all depths are those of transformers, on a tiny random model."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from subprocesses import ROOT, run_command

from led_rl.engines.vllm_plugin.architectures import ARCHITECTURES
from led_rl.engines.vllm_plugin.models import LatentStatesMixin


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What agreed, by architecture. In a process of its own: engines of one process share their parallel groups."""
    folder = tmp_path_factory.mktemp("architectures")
    probe = ROOT / "tests" / "probes" / "architectures_probe.py"
    run_command(sys.executable, probe, folder, folder / "facts.json")
    return json.loads((folder / "facts.json").read_text())


def test_every_architecture_is_compared(found):
    assert set(found) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tables_of_all_depths_agree_with_transformers(found, architecture):
    seen = found[architecture]
    assert "error" not in seen, seen["error"]
    assert seen["tables"] > 100
    assert seen["log-probabilities"] > 150
    assert seen["drawn by led_reference"] > 20


def test_a_model_that_hides_its_layers_is_refused_when_it_is_made(monkeypatch):
    class Hidden(torch.nn.Module):
        def __init__(self, *, vllm_config, prefix):
            super().__init__()
            self.model = SimpleNamespace(layers=[torch.nn.Identity()] * 2)

    class LEDHidden(LatentStatesMixin, Hidden):
        pass

    config = SimpleNamespace(num_hidden_layers=4, hidden_size=8)
    vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(hf_text_config=config, dtype=torch.float32),
        scheduler_config=SimpleNamespace(max_num_seqs=2),
        additional_config={},
    )
    monkeypatch.setenv("LED_RL_DEPTH", "2")
    with pytest.raises(RuntimeError, match="LEDHidden does not give LED the residual stream that enters layer 3"):
        LEDHidden(vllm_config=vllm_config)
