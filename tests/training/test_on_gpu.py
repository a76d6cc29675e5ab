"""Training as only GPUs show it: bfloat16, an engine that sleeps between rollouts, one engine on two GPUs.

New weights over NCCL are in test_served_rollout.py, an engine on two GPUs in engines/vllm_plugin/test_parallel.py.
"""

import json
import math

import pytest
import torch
from conftest import save_tiny_model
from subprocesses import BIN, ROOT, run_command

# case: processes, largest mean difference of log-probabilities between engine and trainer, keys of the recipe
CASES = {
    "float32": (1, 1e-3, {}),
    "bfloat16": (1, 5e-2, {"bf16": "true", "dtype": "bfloat16"}),
    "sleep": (1, 1e-3, {"vllm_enable_sleep_mode": "true"}),
    "two GPUs an engine": (2, 1e-3, {"vllm_tensor_parallel_size": 2}),
}


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("depth", [1, 4])
def test_two_steps(case, depth, tmp_path):
    """LED of depth 1 over the whole vocabulary is the model's own distribution: the engine's log-probabilities must be
    the trainer's, after a weight sync and after a sleep of level 2, which drops the weights and LED's buffers."""
    processes, tolerance, changes = CASES[case]
    if torch.cuda.device_count() < processes:
        pytest.skip("needs two GPUs")
    steps = two_steps(tmp_path, processes, depth, {"use_cpu": "false", "vllm_gpu_memory_utilization": 0.3} | changes)
    check_steps(steps, depth, tolerance)


def two_steps(folder, processes, depth, keys):
    """The logged steps of a run of recipes/gsm8k_smoke.yaml on a tiny model."""
    model = save_tiny_model(folder / "model", layers=6, num_key_value_heads=2)
    rows = [{"question": f"What is {i} + {i}?", "answer": f"Twice {i}.\n#### {2 * i}"} for i in range(16)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = {
        "model_name_or_path": model, "dtype": "float32", "dataset": folder / "rows.jsonl", "output_dir": folder / "out",
        "rewards": "[{name: 'letters_reward:share_of_letters'}]", "learning_rate": "1e-3", "led_depth": depth,
        "led_k": 128 if depth == 1 else 8, "max_completion_length": 32, "vllm_max_model_length": 256,
    } | keys  # fmt: skip
    run_command(
        *[BIN / "torchrun", "--standalone", "--nproc-per-node", processes, "led_rl/train.py"],
        *["recipes/gsm8k_smoke.yaml", *(part for key, value in keys.items() for part in (f"--{key}", value))],
        timeout=600,
        PYTHONPATH=str(ROOT / "tests" / "probes"),
    )
    history = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "reward" in entry]


def check_steps(steps, depth, tolerance):
    assert [entry["step"] for entry in steps] == [1, 2]
    for entry in steps:
        assert math.isfinite(entry["loss"])
        assert 0 < entry["grad_norm"] < math.inf
        assert entry["led/undrawable"] == 0
        assert sum(entry[f"led/depth_{j}"] for j in range(depth)) == pytest.approx(1.0, abs=1e-3)
        assert entry["led/explored_fraction"] == pytest.approx(1 - entry["led/confidence"], abs=1e-3)
        if depth == 1:
            assert entry["sampling/sampling_logp_difference/mean"] < tolerance
        else:
            assert 0 < entry["led/explored_fraction"] < 1
