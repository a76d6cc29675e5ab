"""Log-normalisers and candidate logits of latent layers: PyTorch against float64, the Triton kernel against PyTorch."""

import json
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from hopper import compile_for_hopper
from subprocesses import run_command
from torch import Tensor

from led_rl.sampler.latent_layers import (
    Head,
    LatentStatistics,
    latent_statistics,
    merge_ranks,
    torch_latent_statistics,
    triton_latent_statistics,
)


@dataclass(frozen=True)
class Case:
    rows: int = 6
    depth: int = 3
    hidden: int = 32
    vocab: int = 119
    k: int = 8
    start: int = 0
    padding: int = 0
    bias: bool = False
    soft_cap: float | None = None
    logit_scale: float = 1.0
    needed: str | None = None  # one digit a row; None: no mask
    dtype: str = "float32"

    def inputs(self, device: str = "cpu") -> tuple[Tensor, Head, Tensor, Tensor, Tensor | None]:
        """States, head, candidates, scale, needed. Padding rows would win if they counted."""
        random = torch.Generator().manual_seed(self.rows * 1000 + self.vocab)
        dtype = getattr(torch, self.dtype)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random)

        size = self.vocab + self.padding
        weight = normal(size, self.hidden) * 3 / self.hidden**0.5
        weight[self.vocab :] *= 100
        head = Head(
            weight.to(device, dtype),
            self.vocab,
            self.start,
            normal(size).to(device, dtype) if self.bias else None,
            self.soft_cap,
            self.logit_scale,
        )
        states = normal(self.rows, self.depth, self.hidden).to(device, dtype)
        candidates = self.start + torch.stack(
            [torch.randperm(self.vocab, generator=random)[: self.k] for _ in range(self.rows)]
        )
        scale = 1 / (0.3 + torch.rand(self.rows, generator=random))
        mask = None if self.needed is None else torch.tensor([digit == "1" for digit in self.needed])
        return states, head, candidates.to(device), scale.to(device), None if mask is None else mask.to(device)


def in_float64(states: Tensor, head: Head, candidates: Tensor, scale: Tensor) -> LatentStatistics:
    """From the whole logits; candidates must belong to the rank."""
    logits = states.double() @ head.weight[: head.vocab].double().T  # (rows, depth, vocab)
    if head.bias is not None:
        logits = logits + head.bias[: head.vocab].double()
    if head.soft_cap is not None:
        logits = head.soft_cap * torch.tanh(logits / head.soft_cap)
    logits = logits * head.logit_scale * scale.double()[:, None, None]
    index = (candidates - head.start)[:, None].expand(-1, states.shape[1], -1)
    return LatentStatistics(logits.logsumexp(-1), logits.gather(-1, index))


def error(ours: LatentStatistics, exact: LatentStatistics, needed: Tensor | None = None) -> float:
    """Largest difference over the needed rows, in units of the larger of 1 and the exact value; inf for NaN."""
    largest = 0.0
    for a, b in zip(ours, exact, strict=True):
        a, b = (tensor.double() if needed is None else tensor.double()[needed] for tensor in (a, b))
        difference = torch.where(a == b, 0.0, (a - b).abs() / b.abs().clamp_min(1.0))
        largest = max([largest, *difference.nan_to_num(nan=float("inf")).flatten().tolist()])
    return largest


CASES = {
    "small": Case(),
    "one row, one layer, one candidate": Case(rows=1, depth=1, k=1),
    "k is the vocabulary": Case(vocab=16, k=16),
    "bias": Case(bias=True),
    "soft cap": Case(soft_cap=4.0),
    "logit scale": Case(logit_scale=0.25),
    "everything": Case(bias=True, soft_cap=4.0, logit_scale=0.25, padding=9, needed="101101", k=11),
    "padding rows": Case(padding=9),
    "second rank": Case(start=119),
    "some rows": Case(needed="010010"),
    "all rows": Case(needed="111111"),
    "no row": Case(needed="000000"),
    "several tiles": Case(vocab=700, hidden=40, padding=3, rows=7, needed="1101011", bias=True),
}


@pytest.mark.parametrize("chunk", [16, 64, 119, 4096])
@pytest.mark.parametrize("name", CASES)
def test_the_torch_path_is_the_float64_computation(name, chunk):
    *inputs, needed = CASES[name].inputs()
    assert error(torch_latent_statistics(*inputs, needed, chunk=chunk), in_float64(*inputs), needed) < 1e-5


def test_the_default_chunk_covers_a_large_vocabulary():
    *inputs, needed = Case(vocab=9001, hidden=64, rows=5, needed="01101").inputs()
    assert error(latent_statistics(*inputs, needed), in_float64(*inputs), needed) < 1e-5


@pytest.mark.parametrize("chunk", [64, 4096])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_heads(dtype, chunk):
    *inputs, _ = Case(dtype=dtype, vocab=500, bias=True).inputs()
    assert error(torch_latent_statistics(*inputs, chunk=chunk), in_float64(*inputs)) < 1e-3


@pytest.mark.parametrize("chunk", [16, 4096])
def test_large_logits_do_not_overflow(chunk):
    states, head, candidates, scale, _ = Case().inputs()
    inputs = (states * 1e4, head, candidates, scale)
    assert error(torch_latent_statistics(*inputs, chunk=chunk), in_float64(*inputs)) < 1e-5


def test_rows_that_are_not_needed_have_posteriors_of_zero():
    *inputs, needed = Case(rows=40, vocab=1000, needed="10" * 20).inputs()  # too much work to do it all anyway
    statistics = latent_statistics(*inputs, needed)
    posteriors = (statistics.logits - statistics.log_normaliser[..., None]).exp()
    assert (posteriors[~needed] == 0).all()
    assert (posteriors[needed] > 0).all()


def split(head: Head, ranks: int) -> list[Head]:
    """The head's vocabulary over ranks as vLLM lays it out: equal shares, the last one padded."""
    share = -(-head.vocab // ranks)
    shards = []
    for first in range(0, share * ranks, share):
        real = max(0, min(share, head.vocab - first))
        padding = torch.full((share - real, head.weight.shape[1]), 100.0)
        weight = torch.cat([head.weight[first : first + real], padding])
        bias = None if head.bias is None else torch.cat([head.bias[first : first + real], torch.ones(share - real)])
        shards.append(replace(head, weight=weight, vocab=real, start=head.start + first, bias=bias))
    return shards


@pytest.mark.parametrize("chunk", [16, 4096])
@pytest.mark.parametrize("ranks", [1, 2, 3, 9])
@pytest.mark.parametrize("case", [Case(), Case(vocab=16, k=16, bias=True, soft_cap=4.0)])
def test_ranks_merge_into_the_whole_vocabulary(case, ranks, chunk):
    states, head, candidates, scale, _ = case.inputs()
    parts = []
    for shard in split(head, ranks):
        part = torch_latent_statistics(states, shard, candidates, scale, chunk=chunk)
        own = (candidates >= shard.start) & (candidates < shard.start + shard.vocab)
        assert torch.equal(torch.isfinite(part.logits), own[:, None].expand_as(part.logits))
        parts.append(torch.cat([part.log_normaliser[..., None], part.logits], dim=-1))
    assert error(merge_ranks(torch.stack(parts)), in_float64(states, head, candidates, scale)) < 1e-5


def kernel_errors() -> dict[str, float]:
    """Differences between the kernel and the torch path; run where Triton interprets kernels."""
    errors = {}
    for name, case in (CASES | {"float16": Case(dtype="float16", vocab=300)}).items():
        *inputs, needed = case.inputs()
        ours = triton_latent_statistics(*inputs, needed)
        errors[name] = error(ours, torch_latent_statistics(*inputs, needed), needed)
    states, head, candidates, scale, _ = Case(vocab=300).inputs()
    for ranks in (2, 3):
        for rank, shard in enumerate(split(head, ranks)):
            ours = triton_latent_statistics(states, shard, candidates, scale)
            exact = torch_latent_statistics(states, shard, candidates, scale)
            errors[f"rank {rank} of {ranks}"] = error(ours, exact)
    empty = replace(head, vocab=0)
    exact = torch_latent_statistics(states, empty, candidates, scale)
    errors["a rank without vocabulary"] = error(triton_latent_statistics(states, empty, candidates, scale), exact)
    strided = states.repeat(1, 1, 2)[:, :, : states.shape[-1]]
    ours = triton_latent_statistics(strided, head, candidates, scale)
    errors["states in a wider tensor"] = error(ours, torch_latent_statistics(states, head, candidates, scale))
    by_layer = states.transpose(0, 1).contiguous().transpose(0, 1)
    ours = triton_latent_statistics(by_layer, head, candidates, scale)
    errors["states by layer"] = error(ours, torch_latent_statistics(states, head, candidates, scale))
    whole = replace(head, whole=True)
    ours = triton_latent_statistics(states, whole, candidates, scale)
    errors["the whole head"] = error(ours, torch_latent_statistics(states, head, candidates, scale))
    return errors


RANKS = [f"rank {rank} of {ranks}" for ranks in (2, 3) for rank in range(ranks)]


@pytest.fixture(scope="module")
def interpreted():
    pytest.importorskip("triton")
    output = run_command(sys.executable, __file__, TRITON_INTERPRET="1", PYTHONPATH="tests", timeout=120)
    return json.loads(output.splitlines()[-1])


OTHERS = ("float16", "a rank without vocabulary", "states in a wider tensor", "states by layer", "the whole head")


@pytest.mark.parametrize("name", [*CASES, *RANKS, *OTHERS])
def test_the_interpreted_kernel_is_the_torch_path(interpreted, name):
    assert interpreted[name] < 1e-5


@pytest.mark.parametrize("complete", [False, True], ids=["plain", "bias and soft cap"])
@pytest.mark.parametrize("tile", [0, 2])
def test_the_kernel_compiles_for_hopper_in_bfloat16(tile, complete):
    pytest.importorskip("triton")
    from led_rl.sampler.latent_layers import _CONFIGS, _read_vocabulary

    config, kernel = _CONFIGS[tile], _read_vocabulary.fn
    types = dict.fromkeys(("states", "weight", "bias"), "*bf16") | dict.fromkeys(("order", "count"), "*i32")
    types |= {"candidates": "*i64"} | dict.fromkeys(("scale", "partial", "logits_out"), "*fp32")
    types |= dict.fromkeys(("rows", "depth", "hidden", "k", "vocab", "start"), "i32")
    types |= dict.fromkeys(("row_stride", "layer_stride", "weight_stride"), "i32")
    types |= {"soft_cap": "fp32", "logit_scale": "fp32"}
    constants = {"BUCKET": 64, "EVEN": not complete, **config.kwargs}
    constants |= {} if complete else {"bias": None, "soft_cap": None}
    aligned = ("states", "weight", "hidden", "vocab", "row_stride", "layer_stride", "weight_stride")
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    compiled = compile_for_hopper(kernel, types, constants, aligned, **options)
    assert "wgmma" in compiled.asm["ptx"] or "mma.sync" in compiled.asm["ptx"]  # the tensor cores do the dot


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-3)])
@pytest.mark.parametrize("share", ["0", "1", "0000100001", None])
def test_the_kernel_on_a_gpu(dtype, tolerance, share):
    rows = 64
    needed = None if share is None else (share * rows)[:rows]
    case = Case(rows=rows, depth=7, hidden=1024, vocab=151936, padding=128, needed=needed, dtype=dtype)
    *inputs, mask = case.inputs("cuda")
    assert error(triton_latent_statistics(*inputs, mask), torch_latent_statistics(*inputs), mask) < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_the_cases_on_a_gpu(name):
    *inputs, needed = CASES[name].inputs("cuda")
    assert error(latent_statistics(*inputs, needed), in_float64(*inputs), needed) < 1e-5


@pytest.mark.gpu
def test_the_kernel_does_not_wait_for_the_gpu():
    *inputs, needed = Case(rows=32, vocab=5000, needed="10" * 16).inputs("cuda")
    latent_statistics(*inputs, needed)  # tunes
    torch.cuda.set_sync_debug_mode("error")
    try:
        latent_statistics(*inputs, needed)
        latent_statistics(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


if __name__ == "__main__":
    print(json.dumps(kernel_errors()))
