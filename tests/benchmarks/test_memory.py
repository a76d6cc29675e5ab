"""What LED holds by formula, against the tables themselves and the figures of docs/performance.md."""

import pytest
import torch

from led_rl.benchmarks.memory import held_per_sequence
from led_rl.sampler.capture_options import EngineOptions
from led_rl.sampler.on_gpu.draw import Workspace
from led_rl.sampler.request_decoder import RequestDecoder


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_request_tables(depth):
    def held(sequences: int) -> int:
        decoder = RequestDecoder(EngineOptions(depth), 12, 119, sequences, torch.device("cpu"))
        return sum(table.nbytes for table in decoder.tensors().values())

    stated = held_per_sequence(depth, 64, 4, 119, on_device=False)["request_tables"]
    assert held(200) - held(100) == 100 * stated


def test_workspace():
    workspace = Workspace.of(3, 151936, torch.device("cpu"))
    stated = held_per_sequence(8, 2560, 2, 151936, on_device=True)["workspace"]
    assert sum(tensor.nbytes for tensor in vars(workspace).values()) == 3 * stated


def test_the_documented_figures():
    quickstart = held_per_sequence(4, 96, 4, 119, on_device=False)
    assert {name: count * 128 for name, count in quickstart.items()} == {
        "latent_states": 147 * 1024,
        "request_tables": 29 * 1024,
        "workspace": 0,
    }
    qwen = {name: 256 * count for name, count in held_per_sequence(8, 2560, 2, 151936, on_device=True).items()}
    assert qwen["latent_states"] / 2**20 == pytest.approx(8.8, abs=0.06)
    assert qwen["request_tables"] / 2**10 == pytest.approx(74)
    assert qwen["workspace"] / 2**10 == pytest.approx(304, abs=0.5)
