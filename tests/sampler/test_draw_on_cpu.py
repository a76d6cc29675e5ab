"""The compiled loops of the CPU against the same draw in torch."""

from types import SimpleNamespace

import pytest
import torch
from draw_cases import agree

from led_rl.sampler.in_torch import TorchDraw
from led_rl.sampler.on_cpu import loops
from led_rl.sampler.on_cpu.draw import CompiledDraw
from led_rl.sampler.request_slots import COMPILED, compiles


@pytest.mark.parametrize("vocab", [31, 5000])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("final_entropy", [True, False])
def test_the_compiled_draw_is_torch_s(vocab, alike, final_entropy):
    drawn, totals = agree(vocab, alike, final_entropy, ((CompiledDraw(),),), ((TorchDraw(),),))
    assert drawn > 100
    assert totals["read"] > 50


def test_only_decodings_with_loops_are_compiled():
    assert compiles(SimpleNamespace(decodings=COMPILED))
    assert not compiles(SimpleNamespace(decodings=(*COMPILED, -1)))


def test_the_largest_logits_are_distinct_tokens_even_where_few_are_allowed():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 20, generator=generator)
    logits[torch.rand(200, 20, generator=generator) < 0.7] = float("-inf")
    rows = torch.arange(0, 200, 2)
    values, candidates, first = torch.empty(100, 8), torch.empty(100, 8, dtype=torch.int64), torch.empty(100)
    arrays = [tensor.numpy() for tensor in (logits, 2 * logits, rows, values, candidates, first)]
    loops.top_k(*arrays)
    assert torch.equal(values, logits[rows].topk(8).values)
    assert torch.equal(logits[rows].gather(1, candidates), values)
    assert torch.equal(first, 2 * values[:, 0])
    assert all(len(set(row)) == 8 for row in candidates.tolist())
