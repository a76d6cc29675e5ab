"""A rollout server that is killed and started again, with the weights it started with, and one that stays away.

On CPU new weights travel by disk, since TRL's and vLLM's own transfer is NCCL's; with two GPUs they travel by NCCL.
"""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import torch
import yaml
from safetensors.torch import save_file
from servers import SIZES, clean_environment, end, free_port, healthy
from subprocesses import BIN, ROOT
from trl.generation.vllm_client import VLLMClient

from led_rl import train
from led_rl.training.checkpoints import flaw_of
from led_rl.training.rollout_client import LEDClient, summed_statistics

DEADLINE = 300.0  # seconds


class Server:
    """A generation node that can be killed and started again at the same address."""

    def __init__(self, model, log, **environment):
        self.port, self.log = free_port(), log
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [ROOT / "launch" / "serve_rollouts.sh", model, *SIZES]
        self.environment = environment | {"HOST": "127.0.0.1", "PORT": str(self.port)}
        self.process = None

    def start(self):
        environment = clean_environment(PATH=f"{BIN}:{os.environ['PATH']}", **self.environment)
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                [str(part) for part in self.command],
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + DEADLINE
        while not healthy(self.url):
            assert self.process.poll() is None, self.log.read_text()[-6000:]
            assert time.monotonic() < deadline, self.log.read_text()[-6000:]
            time.sleep(0.3)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        while healthy(self.url):
            time.sleep(0.1)


def weights_by_disk(monkeypatch, model, folder):
    """Stands in for NCCL: the server reads the trainer's weights from a checkpoint that is written for it."""

    def send(self, metadata, named_params):
        shutil.copytree(model, folder, dirs_exist_ok=True)
        save_file({name: value.clone().contiguous() for name, value in named_params}, folder / "model.safetensors")
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        self._post(f"{self.base_url}/collective_rpc", json=body)

    monkeypatch.setattr(VLLMClient, "init_communicator", lambda *args, **kwargs: None)
    monkeypatch.setattr(VLLMClient, "update_named_params", send)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_a_restarted_server_gets_the_weights_again_and_one_that_stays_away_ends_the_run(
    device, tiny_model, tmp_path, monkeypatch, capfd, caplog
):
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs: NCCL does not take one GPU twice, for the trainer and for the server")
    if device == "cpu":
        weights_by_disk(monkeypatch, tiny_model, tmp_path / "sent")
    server = Server(tiny_model, tmp_path / "log", **({"CUDA_VISIBLE_DEVICES": "1"} if device == "cuda" else {}))
    generate, rollouts = LEDClient.generate, []

    def generate_amid_accidents(self, prompts, **settings):
        if settings["max_tokens"] > 1:
            rollouts.append(self.server_instance())
            if len(rollouts) == 2:  # its weights have just been sent
                server.kill()
                server.start()
        answer = generate(self, prompts, **settings)
        if len(rollouts) == 4:
            server.kill()
        return answer

    monkeypatch.setattr(LEDClient, "generate", generate_amid_accidents)
    rows = [json.dumps({"problem": f"{i}+1?", "answer": str(i + 1)}) for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    recipe = {
        "model_name_or_path": tiny_model, "dtype": "float32", "dataset": "rows.jsonl", "answer_column": "answer",
        "rewards": [{"name": "letters_reward:share_of_letters"}], "output_dir": str(tmp_path / "out"),
        # LED of depth 1 over the whole vocabulary is the model's own distribution: mu must be the trainer's policy
        "decoding": "led", "led_depth": 1, "led_k": 128, "vllm_mode": "server", "vllm_server_base_url": server.url,
        "vllm_server_timeout": 5.0, "use_cpu": device == "cpu", "bf16": False, "gradient_checkpointing": False,
        "max_steps": 4, "save_steps": 1, "logging_steps": 1, "learning_rate": 1e-2, "max_completion_length": 16,
        "num_generations": 4, "per_device_train_batch_size": 8, "log_completions": False,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.syspath_prepend(ROOT / "tests" / "probes")
    try:
        server.start()
        assert train.main([str(tmp_path / "run.yaml")]) == 2
    finally:
        end(server.process)

    said = capfd.readouterr().err
    warned = caplog.text
    assert warned.count("was restarted and lost the weights it was sent; waiting for it, up to 5 seconds") == 1
    assert warned.count("was restarted, and gets the weights anew") == 1
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for part in (server.url, "no answer", "after 5 seconds (vllm_server_timeout)", "checkpoints are as they were"):
        assert part in errors[0]
    assert "Traceback" not in said

    last = tmp_path / "out" / "checkpoint-3"
    assert flaw_of(last) is None
    assert sorted(path.name for path in last.parent.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2", last.name]
    assert not (last.parent / "trainer_state.json").exists()
    steps = [log for log in json.loads((last / "trainer_state.json").read_text())["log_history"] if "reward" in log]
    assert len(set(rollouts)) == 2
    assert len(steps) == 3
    tolerance = 1e-4 if device == "cpu" else 2e-2
    for entry in steps:  # with the weights that the server was started with, this is above 1
        assert entry["sampling/sampling_logp_difference/max"] < tolerance
        assert entry["led/depth_0"] == 1
        assert entry["led/explored_fraction"] == pytest.approx(1 - entry["led/confidence"], abs=1e-5)
        assert entry["led/entropy_final"] == pytest.approx(entry["led/entropy_mu"], abs=1e-4)
        assert entry["grad_norm"] > 0


def test_what_a_server_tells_of_requests_is_summed_as_an_engine_sums_it():
    told = [
        {"rows": 4, "explored": 1.5, "read": 2, "confidence": 0.5, "entropy_mu": 1.0, "depth": [1, 1], "undrawable": 1},
        {"rows": 0, "explored": 0.0, "read": 0, "confidence": None, "entropy_mu": None, "depth": [0, 0]},
        {"rows": 6, "explored": 2.5, "read": 3, "confidence": 1.0, "entropy_mu": 0.5, "depth": [0, 3]},
    ]
    assert summed_statistics(told) == {
        "rows": 10, "explored": 4.0, "read": 5, "undrawable": 1, "confidence": 8.0, "entropy_mu": 7.0, "depth_0": 1,
        "depth_1": 4,
    }  # fmt: skip
    assert summed_statistics([]) == {}
