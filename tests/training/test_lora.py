"""`recipes/grpo_led_lora.yaml` from the command line: what it saves, what its engine samples from, and going on.

The recipe's model is replaced by a tiny one and its sizes by small ones; the rest, DeepSpeed included, is its own.
"""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import save_tiny_model
from peft import PeftModel
from safetensors.torch import load_file
from subprocesses import BIN, ROOT, run_command
from test_trainer import SAMPLING, judge
from transformers import AutoConfig, AutoModelForCausalLM

from led_rl.benchmarks.plan import ON_ANY_MACHINE
from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.training.checkpoints import flaw_of
from led_rl.training.checks.saving import bytes_of_checkpoint
from led_rl.training.recipe import load_recipe
from led_rl.training.run_folder import is_finished


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that kill -9 ends in its third save, and the same command again."""
    folder = tmp_path_factory.mktemp("lora")
    model, out = save_tiny_model(folder / "model", layers=8, seed=2), folder / "out"
    rows = [{"problem": f"What is {i} + {i}?", "solution": f"It is $\\boxed{{{2 * i}}}$."} for i in range(16)]
    (folder / "math.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    arguments = [
        *["recipes/grpo_led_lora.yaml", "--model_name_or_path", model, "--dataset", folder / "math.jsonl"],
        *["--output_dir", out, "--bf16", "false", "--dtype", "float32", "--ddp_backend", "gloo"],
        *["--vllm_enable_sleep_mode", "false", "--vllm_max_model_length", "512", "--max_completion_length", "24"],
        *["--report_to", "none", "--max_steps", "4", "--save_steps", "1", "--beta", "0.05", "--learning_rate", "1e-2"],
        *["--lora_r", "4", "--lora_alpha", "8", "--temperature", SAMPLING.temperature, "--top_p", SAMPLING.top_p],
        *["--top_k", SAMPLING.top_k, "--min_p", SAMPLING.min_p],
        *["--rewards", "[{name: 'watched_reward:share_of_letters'}]"],
    ]
    command = [BIN / "accelerate", "launch", "--quiet", "led_rl/train.py", *arguments]
    probes = {"PYTHONPATH": str(ROOT / "tests" / "probes")}
    run_command(*command, status=1, timeout=600, KILL_IN_SAVE="3", **probes)
    assert (out / "checkpoint-3").is_dir()
    seen = [json.loads(line) for line in (out / "watched-0.jsonl").read_text().splitlines()]
    (out / "watched-0.jsonl").unlink()
    said = run_command(*command, timeout=600, **probes)
    resumed = [json.loads(line) for line in (out / "watched-0.jsonl").read_text().splitlines()]
    return SimpleNamespace(
        model=model, out=out, arguments=list(map(str, arguments)), seen=seen, resumed=resumed, said=said
    )


def logs(lines) -> dict:
    return {line["step"]: line["logged"] for line in lines if line["kind"] == "log" and "loss" in line["logged"]}


def rollouts(lines) -> dict:
    return {line["step"]: line for line in lines if line["kind"] == "rollout"}


def test_checkpoints_and_the_final_model_hold_the_adapter_alone(run):
    for folder in (run.out, run.out / "checkpoint-2", run.out / "checkpoint-4"):
        assert not list(folder.glob("model*.safetensors"))
        assert all(".lora_" in name for name in load_file(folder / "adapter_model.safetensors"))
    (states,) = (run.out / "checkpoint-4").glob("global_step4/*model_states.pt")
    assert all(".lora_" in name for name in torch.load(states, weights_only=False)["module"])
    recipe = load_recipe(run.arguments, ON_ANY_MACHINE)
    assert is_finished(recipe)
    _, final = bytes_of_checkpoint(recipe, AutoConfig.from_pretrained(run.model))
    assert (run.out / "adapter_model.safetensors").stat().st_size == pytest.approx(final, rel=0.15)


def test_the_reference_is_the_model_without_its_adapter(run):
    assert not any(line["second_model"] for line in run.seen if line["kind"] == "log")
    kl = {step: logged["kl"] for step, logged in logs(run.seen).items()}
    assert kl[1] == pytest.approx(0, abs=1e-6)  # the adapter begins at 0
    assert min(kl[2], kl[3]) > 1e-4


def test_the_engine_holds_the_merged_weights_after_each_sync(run):
    apart = {step: line["apart"] for step, line in rollouts(run.seen).items()}
    assert set(apart) == {0, 1, 2}
    assert max(apart.values()) < 1e-6


@pytest.fixture(scope="module")
def merged(run):
    """transformers with the adapter of the second step merged by PEFT, and the base model."""
    base, adapted = (AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32) for _ in range(2))
    adapted = PeftModel.from_pretrained(adapted, str(run.out / "checkpoint-2")).merge_and_unload()
    engine = TransformersEngine(str(run.model))
    engine.model.load_state_dict(adapted.state_dict())
    return engine, base.state_dict()


def test_rollouts_are_led_over_the_layers_of_the_merged_model(run, merged):
    engine, base = merged
    moved = [name for name, value in engine.model.state_dict().items() if not torch.equal(value, base[name])]
    assert len(moved) == 8 * 7  # q, k, v, o, gate, up and down of each layer
    rollout, thought, apart = rollouts(run.seen)[2], 0, 0.0
    for prompt, completion, logprobs in zip(
        rollout["prompts"], rollout["completions"], rollout["logprobs"], strict=True
    ):
        expected = judge(engine, prompt, completion)
        torch.testing.assert_close(torch.tensor(logprobs), expected["behaviour"], atol=1e-5, rtol=5e-6)
        thought += int(expected["thinking"].sum())
    assert thought > 50
    engine.model.load_state_dict(base)
    for prompt, completion, logprobs in zip(
        rollout["prompts"], rollout["completions"], rollout["logprobs"], strict=True
    ):
        apart = max(apart, (torch.tensor(logprobs) - judge(engine, prompt, completion)["behaviour"]).abs().max().item())
    assert apart > 0.01  # the base model's layers would have been noticed


def test_it_goes_on_as_if_it_had_not_been_killed(run):
    assert "not whole: checkpoint-3 (" in run.said
    assert f"resuming from {run.out / 'checkpoint-2'}" in run.said
    before, after = rollouts(run.seen)[2], rollouts(run.resumed)[2]
    assert before["completions"] == after["completions"]
    assert before["logprobs"] == after["logprobs"]
    before, after = logs(run.seen)[3], logs(run.resumed)[3]
    for metric in ("loss", "grad_norm", "kl", "reward", "entropy"):
        assert after[metric] == before[metric], metric
    assert flaw_of(run.out / "checkpoint-4") is None
