"""DDP, ZeRO-2 and ZeRO-3 on two processes train alike, each with colocated vLLM and LED, and go on after kill -9.

Each strategy is a real run by the launch scripts that dies on both processes, and the same command again: DDP dies in a
step, on one node; ZeRO-2 in a save, on two "nodes"; ZeRO-3 in a save, on one. The first run goes on past the checkpoint
that the second starts from, so that steps of a resumed and of an unbroken run are compared for every strategy.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import save_tiny_model
from safetensors.torch import load_file
from servers import free_port
from subprocesses import BIN, ROOT, run_command
from transformers import AutoConfig

from led_rl.benchmarks.cost_model import HARDWARE
from led_rl.benchmarks.plan import GIB, ON_ANY_MACHINE, plan, setup_of
from led_rl.benchmarks.sizes import Sizes
from led_rl.training.checkpoints import flaw_of
from led_rl.training.checks.saving import bytes_of_checkpoint
from led_rl.training.recipe import load_recipe

NODES = {"ddp": 1, "zero2": 2, "zero3": 1}
KILLED = {"ddp": {"KILL_IN_STEP": "4"}, "zero2": {"KILL_IN_SAVE": "4"}, "zero3": {"KILL_IN_SAVE": "4"}}
STEPS = 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By strategy: its folder, its command line, what both processes saw in each run, and what the second run said."""
    folder = tmp_path_factory.mktemp("zero")
    model = save_tiny_model(folder / "model", layers=6)
    rows = [{"question": f"What is {i} + {i}?", "answer": f"Twice {i}.\n#### {2 * i}"} for i in range(16)]
    (folder / "gsm8k.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    settings = json.loads((ROOT / "launch" / "zero3.json").read_text())
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # else small tensors stay whole
    (folder / "zero3.json").write_text(json.dumps(settings))
    return {name: run(name, folder, model) for name in NODES}


def run(name, folder, model) -> SimpleNamespace:
    out = folder / name
    recipe = [
        *["recipes/gsm8k_smoke.yaml", "--model_name_or_path", model, "--dataset", folder / "gsm8k.jsonl"],
        *["--output_dir", out, "--use_cpu", str(name == "ddp").lower(), "--per_device_train_batch_size", "4"],
        *["--rewards", "[{name: 'watched_reward:share_of_letters'}]", "--learning_rate", "2e-4"],
        *["--max_completion_length", "16", "--vllm_max_model_length", "256", "--max_steps", STEPS, "--save_steps", "2"],
    ]
    deepspeed = {"ddp": None, "zero2": "launch/zero2.json", "zero3": str(folder / "zero3.json")}[name]
    if name == "zero3":
        recipe += ["--deepspeed", deepspeed]
    nodes = NODES[name]
    environment = {
        "PYTHONPATH": str(ROOT / "tests" / "probes"), "PATH": f"{BIN}:{os.environ['PATH']}", "DEVICE": "cpu",
        "NNODES": str(nodes), "MASTER_ADDR": "localhost", "GPUS": str(2 // nodes),
        "STRATEGY": "" if name == "zero3" else name,
    }  # fmt: skip

    def train(status: int, **more: str) -> str:
        settings = environment | more | {"MASTER_PORT": str(free_port())}
        with ThreadPoolExecutor() as pool:
            command = ("launch/train_multinode.sh", *recipe)
            started = [
                pool.submit(run_command, *command, timeout=600, status=status, NODE_RANK=str(rank), **settings)
                for rank in range(nodes)
            ]
            return "\n".join(run.result() for run in started)

    died = train(status=1, **KILLED[name])
    assert "(SIGKILL)" in died, died[-6000:]
    left = {path.name: flaw_of(path) for path in out.glob("checkpoint-*")}
    seen = take_notes(out)
    said = train(status=0)
    arguments = [*map(str, recipe), "--deepspeed", deepspeed or "null"]
    return SimpleNamespace(out=out, arguments=arguments, left=left, seen=seen, resumed=take_notes(out), said=said)


def take_notes(out) -> list[list[dict]]:
    """What both processes wrote down since the last call."""
    files = [out / f"watched-{rank}.jsonl" for rank in (0, 1)]
    notes = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    for file in files:
        file.unlink()
    return notes


def steps_of(lines, kind, key=None) -> dict:
    """By step, what a process noted: of a log the logged metrics, of a rollout the value of `key`."""
    return {
        line["step"]: line["logged"] if key is None else line[key]
        for line in lines
        if line["kind"] == kind and (key is not None or "loss" in line["logged"])
    }


@pytest.mark.parametrize("name", NODES)
def test_kill_9_leaves_a_checkpoint_from_which_the_run_goes_on(runs, name):
    run = runs[name]
    assert run.left["checkpoint-2"] is None
    if "KILL_IN_SAVE" in KILLED[name]:
        assert run.left["checkpoint-4"] is not None
        assert "not whole: checkpoint-4 (" in run.said
    assert f"resuming from {run.out / 'checkpoint-2'}" in run.said
    assert set(steps_of(run.seen[0], "log")) == set(range(1, 4 if name == "ddp" else 5))
    assert set(steps_of(run.resumed[0], "log")) == {3, 4}
    assert flaw_of(run.out / "checkpoint-4") is None
    assert (run.out / "model.safetensors").is_file()


@pytest.mark.parametrize("name", NODES)
def test_a_resumed_run_is_the_unbroken_one(runs, name):
    for rank in (0, 1):
        before, after = (steps_of(lines[rank], "log") for lines in (runs[name].seen, runs[name].resumed))
        for step in set(before) & set(after):
            for metric in ("loss", "grad_norm", "reward", "led/explored_fraction"):
                assert after[step][metric] == pytest.approx(before[step][metric], rel=1e-5, abs=1e-6), (step, metric)
        before, after = (
            steps_of(lines[rank], "rollout", "completions") for lines in (runs[name].seen, runs[name].resumed)
        )
        assert set(before) & set(after) == {2, 3}
        assert [before[step] for step in (2, 3)] == [after[step] for step in (2, 3)]


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_losses_and_gradient_norms_are_ddp_s(runs, name):
    for part in ("seen", "resumed"):
        for rank in (0, 1):
            ours, theirs = (getattr(runs[which], part)[rank] for which in (name, "ddp"))
            rollouts = [steps_of(lines, "rollout", "completions") for lines in (ours, theirs)]
            for step in set(rollouts[0]) & set(rollouts[1]):
                assert rollouts[0][step] == rollouts[1][step], step
            ours, theirs = steps_of(ours, "log"), steps_of(theirs, "log")
            assert len(set(ours) & set(theirs)) >= 2
            for step in set(ours) & set(theirs):
                for metric in ("loss", "grad_norm"):
                    assert ours[step][metric] == pytest.approx(theirs[step][metric], rel=1e-5, abs=1e-5), step


@pytest.mark.parametrize("name", NODES)
def test_the_engine_holds_the_gathered_parameters_after_each_sync(runs, name):
    for lines in (*runs[name].seen, *runs[name].resumed):
        apart = steps_of(lines, "rollout", "apart")
        assert len(apart) >= 2
        assert set(apart.values()) == {0.0}


def test_each_process_keeps_its_share(runs):
    for name, run in runs.items():
        optimizers = [[line for line in lines if line["kind"] == "log"][-1]["optimizer"] for lines in run.resumed]
        log = [line for line in run.resumed[0] if line["kind"] == "log"][-1]
        whole = log["whole"]
        share = 1 if name == "ddp" else 0.5
        for kept in optimizers:  # Adam's two numbers a parameter; shares are padded to equal lengths
            assert kept == pytest.approx(2 * share * whole, rel=0.01), name
        assert log["parameters"] == pytest.approx(whole * (0.5 if name == "zero3" else 1), rel=0.01), name


@pytest.mark.parametrize("name", NODES)
def test_each_process_keeps_what_the_plan_says(runs, name):
    log = [line for line in runs[name].resumed[0] if line["kind"] == "log"][-1]
    setup = setup_of(load_recipe(runs[name].arguments, ON_ANY_MACHINE), gpus=2, memory=GIB)
    sizes = Sizes(log["whole"], log["trained"], activations=0, recomputed=0)
    parts = plan(setup, sizes, AutoConfig.from_pretrained(runs[name].out), HARDWARE["h100"]).training
    assert parts["optimizer"] == pytest.approx(4 * (log["optimizer"] + log["master"]), rel=0.15)
    assert parts["weights"] == pytest.approx(4 * log["parameters"], rel=0.15)


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_optimizer_states_are_files_of_their_own(runs, name):
    states = sorted(path.name for path in (runs[name].out / "checkpoint-4" / "global_step4").iterdir())
    for rank in (0, 1):
        assert any(f"zero_pp_rank_{rank}_" in file and "optim_states" in file for file in states), states


@pytest.mark.parametrize("name", NODES)
def test_a_checkpoint_takes_what_the_check_of_the_disk_says(runs, name):
    run = runs[name]
    recipe = load_recipe(run.arguments, ON_ANY_MACHINE)
    recipe.training.deepspeed = recipe.values["deepspeed"]
    checkpoint, model = bytes_of_checkpoint(recipe, AutoConfig.from_pretrained(run.out))
    files = [path.stat().st_size for path in (run.out / "checkpoint-4").rglob("*") if path.is_file()]
    assert sum(files) == pytest.approx(checkpoint, rel=0.15)
    assert (run.out / "model.safetensors").stat().st_size == pytest.approx(model, rel=0.15)


def test_the_final_model_has_moved_and_is_ddp_s(runs):
    finals = {name: load_file(run.out / "model.safetensors") for name, run in runs.items()}
    first = load_file(next(iter(runs.values())).out.parent / "model" / "model.safetensors")
    for name, final in finals.items():
        assert set(final) == set(first)
        assert min((final[part] - first[part]).abs().max() for part in first) > 1e-4
        assert max((final[part] - finals["ddp"][part]).abs().max() for part in first) < 1e-3, name
