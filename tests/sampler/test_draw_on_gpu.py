"""The fused draw of a device against the same draw in torch: in Triton's interpreter, and on a GPU."""

import json
import random
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from draw_cases import HIDDEN, ROWS, Model, admit_request, agree, decoder, requests
from hopper import compile_for_hopper
from subprocesses import run_command

from led_rl.sampler.drawn import Drawn
from led_rl.sampler.in_torch import TorchDraw
from led_rl.sampler.on_gpu.draw import MOST_CANDIDATES, FusedDraw
from led_rl.sampler.on_gpu.kernels import TILE
from led_rl.sampler.request_slots import COMPILED


class Interpreted(FusedDraw):
    """Takes batches on a CPU, too, where Triton's interpreter runs the kernels."""

    def takes(self, needs, logits):
        return True


FUSED, IN_TORCH = (Interpreted(),), (TorchDraw(),)
CASES = {  # vocabulary, alike, final_entropy, and what else `agree` takes
    "mixed rows": (31, False, True, {"rows": ROWS, "steps": 2}),
    "rows alike": (31, True, False, {"steps": 2}),
    "a draw in torch in between": (31, True, True, {"steps": 3, "ours": (FUSED, IN_TORCH)}),
    "several tiles": (2 * TILE + 77, False, True, {}),
    "whole tiles": (2 * TILE, False, False, {"led_k": 2}),
    "fewer tokens than candidates": (31, False, True, {"few": True}),
    "few tokens in several tiles": (TILE + 3, False, True, {"few": True, "led_k": 20}),
    "one candidate": (31, False, False, {"led_k": 1}),
    "twenty candidates": (50, True, False, {"led_k": 20, "led_decoding": "led"}),
    "more candidates than tokens": (11, False, False, {"led_k": 20}),
    "the final layer alone": (31, False, True, {"led_depth": 1}),
    "logits in bfloat16": (31, False, True, {"half": True}),
    "every row read": (31, False, True, {"read_all": True}),
    "no led": (31, False, False, {"led_decoding": "top_k_control"}),
    "normed": (31, False, False, {"led_latent_norm": True, "led_decoding": "led"}),
}


def check(name: str, device: str = "cpu", rows: int = ROWS // 3, steps: int = 1) -> dict[str, float]:
    vocab, alike, final_entropy, options = CASES[name]
    options = {"ours": (FUSED,), "rows": rows, "steps": steps, "device": torch.device(device)} | options
    drawn, totals = agree(vocab, alike, final_entropy, theirs=(IN_TORCH,), **options)
    return {"drawn": drawn, "read": totals["read"]}


@pytest.fixture(scope="module")
def interpreted():
    """By case: what `check` says, or its error."""
    pytest.importorskip("triton")
    output = run_command(sys.executable, __file__, TRITON_INTERPRET="1", PYTHONPATH="tests", timeout=240)
    return json.loads(output.splitlines()[-1])


def check_spare_rows() -> dict[str, float]:
    """Warming up leaves no trace; rows of NaN and of masked tokens alone draw some token and count nothing."""
    torch.manual_seed(0)
    vocab, rows = 50, 4
    fused, model = decoder(True, vocab), Model(vocab)
    fused.backends = (Interpreted.warmed_up(fused.slots, vocab, True),)
    assert len(fused.backends[0].workspace.rows) == ROWS
    assert not fused.slots.state.any()
    assert not fused.slots.sums.any()
    fused.check.done = True
    admit_request(fused, 0, {"led": 1}, 1.0, [3])
    logits = torch.randn(rows, vocab)
    logits[1], logits[2] = float("nan"), float("-inf")
    drawn = fused.draw(model, logits, torch.tensor([0, ROWS, ROWS, ROWS]), torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert drawn.active.tolist() == [True, False, False, False]
    assert drawn.policy.isfinite()[[0, 2, 3]].all()
    assert ((drawn.candidates >= 0) & (drawn.candidates < vocab)).all()
    assert all(token in ids for token, ids in zip(drawn.tokens.tolist(), drawn.candidates.tolist(), strict=True))
    totals = fused.totals()
    assert totals["rows"] == 1
    return {"drawn": rows, "read": totals["read"]}


def check_scores() -> dict[str, float]:
    rows, vocab, k = 6, 2 * TILE + 7, 3
    candidates = torch.stack([torch.randperm(vocab)[:k] for _ in range(rows)])
    candidates[0] = torch.tensor([vocab - 1, TILE, TILE - 1])
    policy = torch.rand(rows, k, dtype=torch.float64)
    policy[0, 1] = 0
    active = torch.tensor([True, False, True, True, False, True])
    drawn = Drawn(torch.arange(rows), active, candidates[:, 0], candidates, policy, policy[:, 0])
    before = torch.randn(rows, vocab + 5)[:, :vocab]  # a view: rows are further apart than they are long
    expected = torch.full((rows, vocab), float("-inf")).scatter_(1, candidates, policy.log().float())
    expected[~active] = before[~active]
    torch.testing.assert_close(drawn.write_policy(before), expected)
    return {"drawn": rows, "read": 1}


def test_log_policies_are_written_over_the_rows_concerned(interpreted):
    assert "error" not in interpreted["scores"], interpreted["scores"]["error"]


def test_rows_that_decode_as_usual_stay_in_range(interpreted):
    assert "error" not in interpreted["spare rows"], interpreted["spare rows"]["error"]


@pytest.mark.parametrize("name", CASES)
def test_the_interpreted_draw_is_torch_s(interpreted, name):
    assert "error" not in interpreted[name], interpreted[name]["error"]
    assert interpreted[name]["drawn"] > 5
    assert (interpreted[name]["read"] > 0) == (name != "no led")


def test_only_decodings_that_the_kernels_know_are_fused():
    on_gpu = SimpleNamespace(is_cuda=True)
    takes = FusedDraw().takes
    assert takes(SimpleNamespace(decodings=COMPILED, k=MOST_CANDIDATES), on_gpu)
    assert not takes(SimpleNamespace(decodings=COMPILED, k=MOST_CANDIDATES + 1), on_gpu)
    assert not takes(SimpleNamespace(decodings=(*COMPILED, -1), k=8), on_gpu)
    assert not takes(SimpleNamespace(decodings=COMPILED, k=8), torch.zeros(1))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0), (1,), (), [[0, 3], [1, 1], [6, 2], [5, 0], [3, 4]]], ids=str)
def test_the_first_rows_are_read_as_if_they_were_listed(order):
    states = Model(10).led_states
    order = torch.tensor(order) if isinstance(order, list) else order
    if order == ():
        assert states.read(order, 5).shape == (5, 0, HIDDEN)
    else:
        assert torch.equal(states.read(order, 5), states.read(order, torch.arange(5)))


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_the_draw_on_a_gpu_is_torch_s(name):
    assert check(name, "cuda", steps=24)["drawn"] > 20


@pytest.mark.gpu
def test_the_draw_over_a_large_vocabulary_on_a_gpu():
    drawn, _ = agree(151936, False, True, (FUSED,), (IN_TORCH,), device=torch.device("cuda"))
    assert drawn > 100


@pytest.mark.gpu
def test_the_draw_does_not_wait_for_the_gpu():
    device, vocab = torch.device("cuda"), 5000
    model, fused = Model(vocab, device), decoder(True, vocab, device)
    for row, (extra_args, temperature, prompt) in enumerate(requests(random.Random(0), False)):
        admit_request(fused, row, extra_args, temperature, prompt)
    model.led_states.positions.fill_(1)
    slots, temperature = torch.arange(ROWS, device=device), torch.ones(ROWS, device=device)
    logits = torch.randn(ROWS, vocab, device=device)
    fused.draw(model, logits, slots, temperature)  # verifies and tunes
    assert fused.check.done
    torch.cuda.set_sync_debug_mode("error")
    try:
        fused.draw(model, logits, slots, temperature)
    finally:
        torch.cuda.set_sync_debug_mode("default")


POINTERS = {
    **dict.fromkeys(("best", "slots", "settings", "state", "alphabet", "goto", "tokens_in", "positions"), "*i64"),
    **dict.fromkeys(("candidates", "order", "tokens", "depths"), "*i64"),
    **dict.fromkeys(
        ("totals", "weighted", "temperature", "scale", "log_normaliser", "latent_logits", "scores"), "*fp32"
    ),
    **dict.fromkeys(("figures", "sums", "policy", "table", "row_sums"), "*fp64"),
    **dict.fromkeys(("thinks", "active", "wanted", "normed"), "*i1"),
    "allowed": "*i32",
}
INTEGERS = ("stride", "vocab", "columns", "statistics", "letters", "k", "latents", "read_all")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("complete", [False, True], ids=["usual", "everything"])
@pytest.mark.parametrize("name", ["scan_tiles", "draw_final", "draw_latent", "write_policy"])
def test_the_kernels_compile_for_hopper(name, complete, dtype):
    pytest.importorskip("triton")
    from led_rl.sampler.on_gpu import kernels

    kernel = getattr(kernels, name)
    types = POINTERS | {"logits": f"*{dtype}"} | dict.fromkeys(INTEGERS, "i32")
    constants = {
        "WANTS_ENTROPY": complete,
        "TILES": 128,
        "LAYERS": 8,
        "CANDIDATES": 128 if complete else 16,
        "STATISTICS": 16,
    }
    constants |= {} if complete else {"order": None, "normed": None}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    aligned = [name for name in ("logits", "stride", "vocab") if name in kernel.arg_names]
    compiled = compile_for_hopper(
        kernel, types, constants, aligned, num_warps=1 if name == "draw_latent" and not complete else 4
    )
    if name == "scan_tiles":
        assert "ld.global.v4" in compiled.asm["ptx"]  # the logits are read 16 bytes at a time


def main() -> None:
    import time
    import traceback

    results: dict[str, object] = {}
    checks = {name: partial(check, name) for name in CASES} | {"spare rows": check_spare_rows, "scores": check_scores}
    for name, run in checks.items():
        start = time.monotonic()
        try:
            results[name] = run()
        except Exception:
            results[name] = {"error": traceback.format_exc()[-3000:]}
        print(name, f"{time.monotonic() - start:.1f} s")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
