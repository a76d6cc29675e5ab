import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from led_rl.benchmarks.cost_model import BATCHES, CONTEXTS, Machine, Shape, added_cost, measure, standard_seconds
from led_rl.benchmarks.shapes import SHAPES
from led_rl.commands.cost_model import main
from led_rl.decoding import UserError

MACHINE = Machine(bandwidth=1e10, flops=1e11, operator=1e-6, softmax=1e-9, noise=2e-8)
GPU = Shape(batch=32, vocab=1000, hidden=64, depth=4, itemsize=2, explored=0.25, device="cuda")
CPU = Shape(batch=32, vocab=1000, hidden=64, depth=4, itemsize=4, explored=0.25, device="cpu")
KEPT, LOGITS = 3 * 32 * 3 * 64 * 2, 32 * 1000 * 4
FINAL_LAYER = (KEPT + 2 * LOGITS) / 1e10 + 17e-6 + 32_000e-9


def test_the_control_reads_no_latent_layer():
    cost = added_cost(GPU, MACHINE, "top_k_control")
    assert cost.flops == 0
    assert cost.bytes == KEPT + 2 * LOGITS
    assert cost.seconds == pytest.approx(FINAL_LAYER)


def test_a_marginal_draw_reads_the_head_once_a_block_of_pairs():
    cost = added_cost(GPU, MACHINE, "marginal")
    assert cost.flops == 32 * 3 * 2 * 1000 * 64
    assert cost.bytes == KEPT + 2 * LOGITS + 1000 * 64 * 2  # 96 pairs fit into one block
    compute = max(1000 * 64 * 2 / 1e10, cost.flops / 1e11)
    assert cost.seconds == pytest.approx(FINAL_LAYER + compute + 96_000e-9 + 3e-6)


def test_a_coin_reads_for_the_rows_that_explore():
    coin, marginal = (added_cost(GPU, MACHINE, arm) for arm in ("coin", "marginal"))
    assert coin.flops == marginal.flops / 4
    assert coin.seconds < marginal.seconds


def test_the_engine_s_own_draw_is_saved_on_a_cpu_alone():
    # more operators, float32 states, no scores to overwrite, and 32 000 logits that vLLM need not draw from
    assert added_cost(CPU, MACHINE, "top_k_control").seconds == pytest.approx(
        (2 * KEPT + LOGITS) / 1e10 + 30e-6 + 32_000e-9 - 32_000 * 2e-8
    )


def test_a_standard_step_reads_the_weights_and_the_cache():
    """Against the sizes of transformers' own model and the arithmetic of its cache."""
    config = SHAPES["qwen3-4b"].config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**config))
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    machine = Machine(bandwidth=1e12, flops=1e30, operator=0, softmax=0, noise=0)
    empty = standard_seconds(config, 3, 0, 2, machine)
    assert empty == pytest.approx(2 * matrices / 1e12)
    cache = 2 * 36 * 8 * 128 * 2 * 3 * 500  # keys and values of 36 layers, 8 heads of 128, bfloat16
    assert standard_seconds(config, 3, 500, 2, machine) == pytest.approx(empty + cache / 1e12)
    slow = Machine(bandwidth=1e30, flops=1e12, operator=0, softmax=0, noise=0)
    assert standard_seconds(config, 3, 0, 2, slow) == pytest.approx(2 * 3 * matrices / 1e12)


def test_hardware_that_is_not_at_hand_is_predicted_over_a_grid(capsys):
    assert main(["--hardware", "h200"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[:2] for row in rows] == [[str(b), str(c)] for b in BATCHES for c in CONTEXTS]
    assert all(float(marginal) < float(coin) < 1 for *_, coin, marginal in rows)
    for arguments in ([], ["some.json", "--hardware", "h200"], ["--hardware", "h200", "--explored", "2"]):
        with pytest.raises(UserError):
            main(arguments)


def test_rates_of_this_machine_are_positive():
    machine = measure(torch.device("cpu"), torch.float32, vocab=500, hidden=32)
    assert min(machine.__dict__.values()) > 0


def test_the_command_predicts_beside_what_was_measured(tmp_path, capsys):
    arms = {"standard": {"ms_per_step": 10.0}, "led_coin": {"ms_per_step": 11.0, "explored": 0.1}}
    report = {
        "settings": {"depth": 4},
        "model": {"vocab": 119, "hidden": 32},
        "machine": {"gpu": None, "threads": torch.get_num_threads()},
        "cells": [{"batch": 8, "arms": arms}],
    }
    (tmp_path / "benchmark.json").write_text(json.dumps(report))
    assert main([str(tmp_path / "benchmark.json")]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:2] == ["8", "led_coin"]
    assert float(row[3]) == 1.0
    assert float(row[5]) == pytest.approx(10 / 11, abs=1e-3)


def test_a_file_that_is_no_benchmark_is_one_clear_error(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"x\.json is no benchmark\.json"):
        main([str(tmp_path / "x.json")])
