"""Copies of the sampled rows: in Triton's interpreter and on a GPU against torch."""

import json
import sys

import pytest
import torch
from hopper import compile_for_hopper
from subprocesses import run_command

from led_rl.engines.vllm_plugin import row_copies
from led_rl.engines.vllm_plugin.row_copies import BLOCK, keep_every_row, keep_rows, take_tokens

WIDTHS = (7, BLOCK, 2 * BLOCK + 96)


def relative(kept: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((kept - expected).double().abs() / expected.double().abs().clamp_min(1e-30)).max())


def differences(device: str) -> dict[str, float]:
    """Largest difference of the kernels to torch, relative, by case."""
    found = {}
    rows = torch.tensor([4, 0, 0, 2, 9, 0])
    stale = torch.tensor([4, 0, 77, 2, 9, 0])  # of a longer step: 77 is read as the last token
    for width in WIDTHS:
        for dtype in (torch.float32, torch.bfloat16):
            # a slice of a wider tensor: rows are further apart than they are long
            hidden, residual = torch.randn(2, 10, width + 3).to(dtype)[:, :, :width].to(device)
            for other in (residual, None):
                whole = hidden + residual if other is not None else hidden
                kept = torch.full((8, width), 7.0, dtype=dtype, device=device)
                row_copies._keep_rows_on_device(hidden, other, rows.to(device), kept, 5)
                expected = torch.full_like(kept, 7.0)
                expected[:5] = whole[rows[:5].to(device)]
                found[f"{width} {dtype} {other is not None}"] = relative(kept, expected)
    ids, positions = torch.randint(0, 1000, (2, 10))
    for dtype in (torch.int32, torch.int64):
        outputs = torch.full((2, 8), 7, device=device)
        inputs = ids.to(device, dtype), positions.to(device), stale.to(device)
        row_copies._take_tokens_on_device(*inputs, outputs[0], outputs[1], 5)
        expected = torch.full((2, 8), 7)
        expected[:, :5] = torch.stack([ids, positions])[:, stale[:5].clamp_max(9)]
        found[f"tokens {dtype}"] = float((outputs.cpu() - expected).abs().max())
    return found


def test_the_interpreted_kernels_are_torch_s():
    pytest.importorskip("triton")
    output = run_command(sys.executable, __file__, TRITON_INTERPRET="1", PYTHONPATH="tests", timeout=120)
    found = json.loads(output.splitlines()[-1])
    assert len(found) == 4 * len(WIDTHS) + 2
    sums = {f"{width} {torch.bfloat16} True" for width in WIDTHS}  # the interpreter rounds them towards zero
    assert not any(found[name] for name in set(found) - sums), found
    assert all(found[name] <= 2**-7 for name in sums), found


@pytest.mark.gpu
def test_the_kernels_on_a_gpu_are_torch_s():
    assert not any(differences("cuda").values())


def test_torch_keeps_the_rows_that_are_named():
    hidden, residual = torch.randn(2, 6, 5)
    kept, every = torch.zeros(8, 5), torch.zeros(8, 5)
    rows = torch.tensor([5, 1, 0, 0])
    keep_rows(hidden, residual, rows, kept)
    assert torch.equal(kept[:4], (hidden + residual)[rows])
    keep_every_row(hidden, None, every[:6])
    assert torch.equal(every[:6], hidden)
    tokens, positions = torch.zeros(2, 8, dtype=torch.int64)
    take_tokens(torch.arange(10, 16, dtype=torch.int32), torch.arange(6), rows, tokens, positions)
    assert tokens[:4].tolist() == [15, 11, 10, 10]
    assert positions[:4].tolist() == [5, 1, 0, 0]


@pytest.mark.parametrize("residual", [True, False])
def test_the_kernels_compile_for_hopper(residual):
    types = dict.fromkeys(("hidden", "residual", "kept"), "*bf16")
    types |= dict.fromkeys(("rows", "positions", "tokens_out", "positions_out"), "*i64") | {"token_ids": "*i32"}
    types |= dict.fromkeys(("tokens", "width", "hidden_stride", "residual_stride", "count"), "i32")
    constants = {"BLOCK": BLOCK} | ({} if residual else {"residual": None})
    compile_for_hopper(row_copies._keep, types, constants, ("hidden", "kept", "width", "hidden_stride"))
    if residual:
        compile_for_hopper(row_copies._take, types, {"BLOCK": BLOCK})


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps(differences("cpu")))
