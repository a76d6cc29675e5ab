"""A swap is a swap: TRL's documented examples do the same with LEDGRPOTrainer, and run with LED on vLLM.

The trainers run in processes of their own (probes/swap_probe.py).
"""

import math

import pytest
import torch
from conftest import save_tiny_model
from subprocesses import probe_runner

EXAMPLES = (
    "quick start", "custom reward", "several rewards", "tools", "environment", "rollout_func", "adapter", "evaluation",
    "iterable", "truncated completions masked",
)  # fmt: skip
CLOCKED = ("time/", "eval_time/", "step_time", "train_", "profiling/", "eval_runtime", "eval_samples", "eval_steps")


@pytest.fixture(scope="module")
def facts_of(tmp_path_factory):
    """`facts_of(job)`: what the probe's job found, run once."""
    folder = tmp_path_factory.mktemp("swap")
    model = save_tiny_model(folder / "model", layers=8, seed=3)
    return probe_runner("swap_probe", folder, model, of_two="uneven")


def logged(found, key="loss"):
    return [entry for entry in found["log_history"] if key in entry]


def same_as_theirs(theirs, ours):
    """Every parameter, and every metric that TRL logs and no clock measured."""
    for name, parameter in theirs["parameters"].items():
        assert torch.equal(ours["parameters"][name], parameter), name
    assert len(ours["log_history"]) == len(theirs["log_history"])
    for entry, expected in zip(ours["log_history"], theirs["log_history"], strict=True):
        for name, value in expected.items():
            if not name.startswith(CLOCKED):
                assert entry[name] == value, name


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_trl_s_does_the_same(facts_of, example):
    found = facts_of("swap")[example]
    same_as_theirs(found["theirs"], found["ours"])
    if "their config" in found:  # a plain GRPOConfig
        same_as_theirs(found["theirs"], found["their config"])
    assert len(logged(found["ours"])) == 2
    if example in ("tools", "environment"):
        assert sum(entry["tools/call_frequency"] for entry in logged(found["ours"])) > 0


def test_what_a_tool_answered_is_no_part_of_a_rollout_s_length(facts_of):
    """Its turns are summed: TRL counts generated tokens of whole completions, too."""
    for entry in logged(facts_of("swap")["tools"]["ours"]):
        assert entry["rollout/total_length"] == pytest.approx(entry["completions/mean_length"])
        assert entry["rollout/thinking_length"] + entry["rollout/answer_length"] == pytest.approx(
            entry["rollout/total_length"]
        )


def test_a_run_resumed_within_a_batch_rolls_out_where_the_unbroken_run_does(facts_of):
    history = facts_of("swap")["resumed within a batch"]
    rolled_out = [entry["step"] for entry in history if "rollout/total_length" in entry]
    # 1 before the checkpoint; 3, as the batch under way is not saved; 5 as if nothing had happened
    assert rolled_out == [1, 3, 5]


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("infinite reward", "returned inf for row 8"),
        ("taken column", "logs a column 'prompt', which the table"),
        ("taken metric", "logs a metric 'loss', which is one of"),
        ("weights", "the gradient of step 1 is nan"),
        ("few rows", "has 1 rows, and a batch takes 2 prompts"),
        ("no evaluation set", "without an eval_dataset"),
        ("too deep", "led_depth=99 reads 99 layers, but the model has 8"),
    ],
)
def test_what_would_learn_nothing_in_silence_is_an_error(facts_of, job, message):
    assert message in facts_of("swap")["errors"][job]


def test_a_step_without_rewards_goes_on(facts_of):
    steps = [entry for entry in facts_of("swap")["errors"]["no reward"] if "loss" in entry]
    assert len(steps) == 2
    assert all(entry["reward"] is None for entry in steps)


def test_tools_that_one_process_alone_calls_do_not_wait_for_the_other(facts_of):
    steps = logged(facts_of("uneven"))
    assert [entry["step"] for entry in steps] == [1, 2]
    for entry in steps:
        assert entry["tools/call_frequency"] == 0.5
        assert entry["rollout/total_length"] == pytest.approx(entry["completions/mean_length"])


def test_a_turn_that_does_not_think_is_no_error(facts_of):
    """The template closes the think part after a tool's answer; the rollout's first turns were explored."""
    steps = logged(facts_of("led")["tools"])
    assert len(steps) == 2
    assert sum(entry["tools/call_frequency"] for entry in steps) > 0
    for entry in steps:
        assert 0 < entry["led/explored_fraction"] < 1
        assert entry["rollout/total_length"] == pytest.approx(entry["completions/mean_length"])
        assert math.isfinite(entry["loss"])


@pytest.mark.parametrize(
    "example", ["quick start", "custom reward", "several rewards", "environment", "adapter", "iterable"]
)
def test_an_example_of_trl_s_trains_with_led_on_vllm(facts_of, example):
    found = facts_of("led")[example]
    steps = logged(found)
    assert [entry["step"] for entry in steps] == [1, 2]
    for entry in steps:
        assert 0 < entry["led/explored_fraction"] < 1
        assert entry["rollout/total_length"] == pytest.approx(entry["completions/mean_length"])
        assert math.isfinite(entry["loss"])
        assert math.isfinite(entry["reward"])
    assert all(torch.isfinite(parameter).all() for parameter in found["parameters"].values())
    moved = {name: (found["parameters"][name] - before).abs().max() for name, before in found["before"].items()}
    assert max(moved.values()) > 1e-4
    if example == "adapter":  # merging for the engine and unmerging rounds the weights beneath
        assert all(change < 1e-6 for name, change in moved.items() if "lora_" not in name)
    if example == "environment":
        assert sum(entry["tools/call_frequency"] for entry in steps) > 0
    if example == "custom reward":
        assert all(entry["longest"] > 0 for entry in steps)


@pytest.mark.parametrize("when", ["after the rollout", "before the rollout"])
def test_weights_that_turn_nan_end_the_run_before_they_are_saved(facts_of, when):
    """`logging_steps` is 2, and step 3 is not logged."""
    found = facts_of("led")["weights"]
    assert "the gradient of step 3 is nan" in found[when]["error"]
    assert "\n" not in found[when]["error"]
    assert found[when]["left"] == ["checkpoint-1", "checkpoint-2"]
    assert [entry["step"] for entry in logged({"log_history": found["resumed"]})] == [2, 4]
    assert all(torch.isfinite(parameter).all() for parameter in found["parameters"].values())


def test_a_rollout_func_that_samples_through_the_engine_logs_led(facts_of):
    for entry in logged(facts_of("led")["rollout_func"]):
        assert 0 < entry["led/explored_fraction"] < 1
        assert entry["grad_norm"] > 0


def test_a_rollout_func_that_does_not_sample_with_led_is_an_error(facts_of):
    message = facts_of("led")["foreign rollouts"]
    assert "no token of this rollout was sampled with it" in message
    assert "trainer.vllm_generation.generate" in message


def test_an_evaluation_is_no_part_of_a_step(facts_of):
    found = facts_of("led")["evaluation"]
    evaluated = logged(found, "eval_led_length")
    assert len(evaluated) == 3
    for entry in logged(found):
        assert all(entry[f"time/{name}"] >= 0 for name in ("rollout", "reward", "weight_sync", "training"))
        tokens = 8 * entry["rollout/total_length"]
        assert entry["rollout/tokens_per_second"] == pytest.approx(tokens / entry["time/rollout"], rel=1e-3)
    for entry in evaluated:
        assert entry["eval_standard_length"] > 0
        assert 0 <= entry["eval_led_pass@1"] <= 1


def test_completions_that_a_stop_string_ended_are_whole(facts_of):
    found = facts_of("led")["stop strings"]
    stopped_by_string = 0
    for entry, batch in zip(logged(found), found["scored"], strict=True):
        counted = batch["completion_mask"].any(-1)
        ended = torch.isin(batch["completion_ids"], torch.tensor(found["ends"])).any(-1)
        stopped_by_string += int((counted & ~ended).sum())
        assert entry["completions/clipped_ratio"] == pytest.approx(1 - counted.float().mean().item())
        assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
        lengths = batch["completion_mask"].sum(-1)[counted].float()
        assert entry["completions/mean_terminated_length"] == pytest.approx(lengths.mean().item())
    assert stopped_by_string > 4
    for entry in logged(found):  # and the off-policy mask, which is on here, drops no completion for LED's exploration
        assert entry["grad_norm"] > 0
