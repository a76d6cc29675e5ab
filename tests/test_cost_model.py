import json

import pytest
import torch

from led_rl.cost_model import Machine, Shape, added_cost, main, measure

MACHINE = Machine(bandwidth=1e10, flops=1e11, operator=1e-6, softmax=1e-9, noise=2e-8)
GPU = Shape(batch=32, vocab=1000, hidden=64, depth=4, itemsize=2, explored=0.25, device="cuda")
CPU = Shape(batch=32, vocab=1000, hidden=64, depth=4, itemsize=4, explored=0.25, device="cpu")
KEPT, TOP_K = 3 * 32 * 3 * 64 * 2, 32 * 1000 * 4
FINAL_LAYER = (KEPT + TOP_K) / 1e10 + 110e-6 + 32_000e-9


def test_the_control_reads_no_latent_layer():
    cost = added_cost(GPU, MACHINE, "top_k_control")
    assert cost.flops == 0
    assert cost.bytes == KEPT + TOP_K
    assert cost.seconds == pytest.approx(FINAL_LAYER)


def test_a_marginal_draw_reads_the_head_once_a_block_of_pairs():
    cost = added_cost(GPU, MACHINE, "marginal")
    assert cost.flops == 32 * 3 * 2 * 1000 * 64
    assert cost.bytes == KEPT + TOP_K + 1000 * 64 * 2  # 96 pairs fit into one block
    compute = max(1000 * 64 * 2 / 1e10, cost.flops / 1e11)
    assert cost.seconds == pytest.approx(FINAL_LAYER + compute + 96_000e-9 + 60e-6)


def test_a_coin_reads_for_the_rows_that_explore():
    coin, marginal = (added_cost(GPU, MACHINE, arm) for arm in ("coin", "marginal"))
    assert coin.flops == marginal.flops / 4
    assert coin.seconds < marginal.seconds


def test_the_engine_s_own_draw_is_saved_on_a_cpu_alone():
    # 40 operators instead of 110, float32 states, and 32 000 logits that vLLM need not draw from
    assert added_cost(CPU, MACHINE, "top_k_control").seconds == pytest.approx(
        (2 * KEPT + TOP_K) / 1e10 + 40e-6 + 32_000e-9 - 32_000 * 2e-8
    )


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


def test_a_file_that_is_no_benchmark_is_one_clear_error(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{}")
    assert main([str(tmp_path / "x.json")]) == 2
    assert "x.json is no benchmark.json" in capsys.readouterr().err
