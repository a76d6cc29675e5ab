"""Evaluation during training: on real vLLM, training is bit-identical with and without; and the keys' refusals."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_tiny_model
from subprocesses import ROOT, run_command

from led_rl.training import evaluation_keys
from led_rl.training.config import LEDGRPOConfig
from led_rl.training.evaluation_callback import pass_metrics
from led_rl.training.evaluation_keys import describe_evaluation, evaluation_decodings

DECODINGS = ("led", "standard")


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    model = save_tiny_model(folder / "model", seed=2)
    run_command(sys.executable, ROOT / "tests" / "probes" / "evaluation_probe.py", model, folder, timeout=900)
    return torch.load(folder / "evaluation.pt", weights_only=False)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_training_is_bit_identical_with_and_without_evaluation(facts, decoding):
    evaluated, plain = facts[decoding], facts[f"{decoding}-plain"]
    assert len(evaluated["steps"]) == len(plain["steps"]) == 3
    for one, other in zip(evaluated["steps"], plain["steps"], strict=True):
        assert torch.equal(one["completion_ids"], other["completion_ids"])
        assert torch.equal(one["loss"], other["loss"])
        for name, weight in one["weights"].items():
            assert torch.equal(weight, other["weights"][name]), name


@pytest.mark.parametrize("decoding", DECODINGS)
def test_every_evaluation_samples_with_the_weights_of_its_step(facts, decoding):
    sampled = facts[decoding]["sampled"]
    assert [(step, name) for step, name, *_ in sampled] == [
        (step, name) for step in range(4) for name in ("standard", "led")
    ]
    for _, _, prompts, completions, engine, trained in sampled:
        assert torch.equal(engine, trained)
        assert len(prompts) == len(completions) == 9
    assert len({tuple(map(tuple, completions)) for _, _, _, completions, *_ in sampled}) == 8


@pytest.mark.parametrize("decoding", DECODINGS)
def test_metrics_are_logged_and_the_best_checkpoint_is_kept(facts, decoding):
    logs = [log for log in facts[decoding]["log_history"] if "eval_standard_pass@1" in log]
    assert [log["step"] for log in logs] == [0, 1, 2, 3]
    for log in logs:
        for name in DECODINGS:
            assert log[f"eval_{name}_pass@1"] <= log[f"eval_{name}_pass@3"]
            assert 1 <= log[f"eval_{name}_length"] <= 24
            assert 0 < log[f"eval_{name}_seconds"] < log["eval_seconds"]
            assert log[f"eval_{name}_unjudged"] == 0
    best = max(logs[1:], key=lambda log: log["eval_standard_reward"])
    start = logs[0]["eval_standard_reward"]
    if best["eval_standard_reward"] > start:
        assert facts[decoding]["best"].endswith(f"checkpoint-{best['step']}")


@pytest.mark.parametrize("decoding", DECODINGS)
def test_evaluation_is_no_rollout(facts, decoding):
    """Everything that training logs, but for what is measured in seconds, is as without evaluation."""
    rows = [
        [
            {key: value for key, value in log.items() if not any(word in key for word in ("time", "second", "runtime"))}
            for log in facts[name]["log_history"]
            if "loss" in log
        ]
        for name in (decoding, f"{decoding}-plain")
    ]
    assert len(rows[0]) == 3
    assert repr(rows[0]) == repr(rows[1])
    for log in facts[decoding]["log_history"]:
        if "loss" in log:
            assert log["time/rollout"] < log["step_time"] if "step_time" in log else True


def test_an_evaluation_is_one_line():
    metrics = {"eval_led_pass@1": 0.25, "eval_led_length": 9.0, "eval_gsm8k_led_pass@4": 0.5, "eval_seconds": 2.04}
    line = "evaluation at step 3 | led_pass@1 0.250 | gsm8k_led_pass@4 0.500 | 2.0 s"
    assert describe_evaluation(3, metrics) == line


def test_pass_metrics_by_hand():
    nan = math.nan
    correct = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [nan, 1, 0, nan], [nan] * 4], dtype=float)
    assert pass_metrics(correct) == {"pass@1": pytest.approx((0.25 + 0 + 1 + 0.5) / 4), "pass@4": pytest.approx(2 / 3)}
    assert pass_metrics(correct[-1:]) == {}
    assert pass_metrics(np.array([[1.0], [0.0]])) == {"pass@1": 0.5}


NOISE = {"use_vllm": True, "eval_decodings": ["latent_noise"]}


def config(tmp_path: Path, **changes):
    return LEDGRPOConfig(str(tmp_path), **({"use_cpu": True, "bf16": False} | changes))


def test_the_decodings_of_an_evaluation_are_the_run_s_own(tmp_path):
    args = config(tmp_path, decoding="led", led_depth=4, led_k=5)
    assert list(evaluation_decodings(args)) == ["standard", "led"]
    assert (evaluation_decodings(args)["led"].depth, evaluation_decodings(args)["led"].k) == (4, 5)
    assert list(evaluation_decodings(config(tmp_path))) == []  # TRL's own evaluation; recipes name decodings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eval_decodings": ["lead"]}, "eval_decodings must be of standard, led"),
        ({"eval_decodings": ["led", "led"]}, "must name each decoding once"),
        ({"eval_decodings": []}, "must name each decoding once"),
        ({"eval_samples": 0}, "eval_samples must be at least 1; got 0"),
        ({**NOISE, "led_noise_scale": -1.0}, "led_noise_scale must be .*, got -1.0"),
        ({**NOISE, "led_noise_layers": [1, 1]}, "led_noise_layers must not repeat a layer"),
        ({"use_vllm": False, "eval_decodings": ["led"]}, "needs use_vllm: true"),
        ({"decoding": "soft_thinking"}, "'soft_thinking' cannot train: .* none has a log-probability"),
        ({"decoding": "latent_noise"}, "'latent_noise' cannot train: .* the noise of the engine's forward passes"),
    ],
)
def test_wrong_keys_are_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        config(tmp_path, **changes)


def test_an_evaluation_that_needs_an_engine_without_graphs_is_refused_where_rollouts_have_them(tmp_path, monkeypatch):
    config(tmp_path, use_vllm=True, eval_decodings=["standard", "latent_noise"])
    monkeypatch.setattr(evaluation_keys, "has_gpu", lambda: True)
    config(tmp_path, use_vllm=True, eval_decodings=["standard", "soft_thinking"])
    with pytest.raises(ValueError, match="'latent_noise' needs an engine without CUDA graphs"):
        config(tmp_path, use_vllm=True, eval_decodings=["standard", "latent_noise"])
