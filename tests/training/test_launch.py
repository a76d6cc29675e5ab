"""The launch scripts: what they would run, and what ends them early. Their training is in test_zero.py."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from servers import free_port

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / "launch" / "slurm.sbatch"])
RECIPE = "recipes/gsm8k_smoke.yaml"


def run(*command, **environment) -> tuple[int, str]:
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "OMP_NUM_THREADS")}
    clean["PATH"] = f"{Path(sys.executable).parent}:{clean['PATH']}"
    environment = {name: str(value) for name, value in environment.items()}
    result = subprocess.run(
        [str(part) for part in command],
        env=clean | environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip
    return result.returncode, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (pip install -e '.[dev]')")
    assert run(shellcheck, script) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_without_arguments_a_script_tells_its_usage(script):
    status, text = run("bash", script)
    assert status == 2
    assert f"launch/{script.name}" in text
    assert "Environment, with defaults:" in text


@pytest.mark.parametrize(
    ("strategy", "arguments"),
    [
        ("", ""),
        ("ddp", "--deepspeed null"),
        ("zero1", "--deepspeed launch/zero1.json"),
        ("zero3_offload", "--deepspeed launch/zero3_offload.json"),
        ("fsdp2", "--deepspeed null --fsdp full_shard --fsdp_config launch/fsdp2.json"),
    ],
)
def test_a_dry_run_prints_the_command(strategy, arguments):
    status, text = run("launch/train_node.sh", RECIPE, "--seed", "1", "--dry-run", STRATEGY=strategy)
    assert status == 0
    check, train = text.replace(f"{ROOT}/", "").replace("launch/../", "").splitlines()
    assert "led_rl.training.preflight --nodes 1 --rank 0" in check
    assert train.split() == ["torchrun", "--standalone", "--nproc-per-node", "gpu", "led_rl/train.py", RECIPE,
                             "--seed", "1", *arguments.split()]  # fmt: skip


def test_a_dry_run_of_several_nodes():
    status, text = run(
        "launch/train_multinode.sh", "--dry-run", RECIPE, NNODES=3, NODE_RANK=2, MASTER_ADDR="first", GPUS=4
    )
    assert status == 0
    assert "--rdzv-backend c10d --rdzv-endpoint first:29500" in text
    assert "--nnodes 3 --node-rank 2" in text
    assert "--nproc-per-node 4" in text


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"NNODES": 2}, "NODE_RANK must be a number from 0 to 1; got ''"),
        ({"NNODES": 2, "NODE_RANK": 2}, "got '2'"),
        ({"NNODES": 2, "NODE_RANK": 0}, "MASTER_ADDR must name node 0"),
        ({"NNODES": "two"}, "NNODES must be a number from 1; got two"),
        ({"GPUS": 0}, "GPUS must be a number from 1; got 0"),
        ({"DEVICE": "cpu"}, "GPUS must say how many processes"),
        ({"STRATEGY": "zero4"}, "STRATEGY must be ddp, zero1, zero2, zero3, zero3_offload or fsdp2; got zero4"),
    ],
)
def test_wrong_settings_end_with_one_line(environment, reason):
    status, text = run("launch/train_multinode.sh", RECIPE, **environment)
    assert (status, text.count("\n")) == (2, 1)
    assert reason in text


def test_a_recipe_that_is_missing_is_named():
    assert run("launch/train_node.sh", "recipes/none.yaml") == (2, "error: recipe recipes/none.yaml is not there\n")


def test_a_node_without_gpus_says_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    status, text = run("launch/train_node.sh", RECIPE)
    assert status == 2
    assert "at least one GPU asked for, and torch finds 0" in text


def preflight(rank: int, port: int, recipe: Path | str = RECIPE, seconds: float = 60) -> subprocess.Popen:
    options = {"nodes": 2, "rank": rank, "address": "localhost", "port": port, "device": "cpu", "gpus": 1}
    options |= {"seconds": seconds, "recipe": recipe}
    command = [sys.executable, "-m", "led_rl.training.preflight"]
    command += [part for name, value in options.items() for part in (f"--{name}", value)]
    return subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def outcomes(*nodes: subprocess.Popen) -> list[tuple[int, str]]:
    """Exit status and last line of each."""
    texts = [node.communicate(timeout=180)[0].strip() for node in nodes]
    return [(node.returncode, text.rpartition("\n")[2]) for node, text in zip(nodes, texts, strict=True)]


def test_equal_nodes_pass():
    port = free_port()
    assert [status for status, _ in outcomes(preflight(0, port), preflight(1, port))] == [0, 0]


def test_nodes_that_differ_are_told_what_differs(tmp_path):
    other = tmp_path / "recipe.yaml"
    other.write_text("seed: 1\n")
    port = free_port()
    for status, line in outcomes(preflight(0, port), preflight(1, port, other)):
        assert status == 2
        assert "the nodes differ: the recipe is" in line
        assert "on node 1" in line


def test_a_node_that_does_not_come_is_named():
    ((status, line),) = outcomes(preflight(0, free_port(), seconds=2))
    assert status == 2
    assert "nodes 1 of 2 did not come within 2 s" in line
    ((status, line),) = outcomes(preflight(1, free_port(), seconds=2))
    assert status == 2
    assert "node 0 does not answer at localhost:" in line


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ((status, line),) = outcomes(preflight(0, port))
    assert status == 2
    assert f"port {port} of node 0 cannot be used" in line


def test_a_job_of_slurm_would_serve_and_train():
    status, text = run(
        "bash", "launch/slurm.sbatch", "--dry-run", RECIPE, GENERATION_NODES=1, MODEL="m", SLURM_NNODES=3
    )
    assert status == 0
    serve, wait, train = text.splitlines()
    assert "--nodelist node1 " in serve
    assert serve.split()[-2:] == ["launch/serve_rollouts.sh", "m"]
    assert "led-rl doctor --server http://node1:8000" in wait
    assert "--nodelist node2\\,node3" in train
    assert train.split()[-6:] == ["launch/train_multinode.sh", RECIPE, "--vllm_mode", "server",
                                  "--vllm_server_base_url", "http://node1:8000"]  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "this is a Slurm script"),
        ({"GENERATION_NODES": 2}, "none is left to train"),
        ({"GENERATION_NODES": 1}, "MODEL must name what the generation nodes serve"),
    ],
)
def test_a_job_that_cannot_run_ends_with_one_line(environment, reason):
    arguments = ["--dry-run"] if environment else []
    status, text = run("bash", "launch/slurm.sbatch", *arguments, RECIPE, **environment)
    assert (status, text.count("\n")) == (2, 1)
    assert reason in text


@pytest.mark.parametrize("path", sorted((ROOT / "launch" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_configurations(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_machines == 1
    assert config.use_cpu is False
    values = yaml.safe_load(path.read_text())
    if "deepspeed_config" in values:
        assert (ROOT / values["deepspeed_config"]["deepspeed_config_file"]).is_file()


def test_the_launcher_s_setting_takes_the_recipe_s_place(monkeypatch, capsys):
    from led_rl.training.launcher import settings_of_the_launcher

    assert settings_of_the_launcher({"deepspeed": "launch/zero3.json"}) == {}
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "launch/zero2.json")
    assert settings_of_the_launcher({"deepspeed": "launch/zero3.json"}) == {"deepspeed": "launch/zero2.json"}
    assert "takes the place of `deepspeed: launch/zero3.json`: launch/zero2.json" in capsys.readouterr().out
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert settings_of_the_launcher({}) == {"deepspeed": None}
    assert capsys.readouterr().out == ""
