"""The compiled loops of the CPU against the same draw in torch."""

from types import SimpleNamespace

import pytest
import torch
from draw_cases import ROWS, Model, admit_request, agree, decoder

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


@pytest.mark.parametrize("backend", [CompiledDraw, TorchDraw])
@pytest.mark.parametrize(
    ("keys", "alike"),
    [
        ({"led_decoding": "top_k_control"}, True),
        ({"led": 1, "led_exploit": 0}, True),
        ({"led": 1, "led_exploit": 0, "led_draw": "marginal"}, True),
        ({"led": 1}, False),
        ({"led": 1, "led_draw": "marginal"}, False),
    ],
    ids=str,
)
def test_at_temperature_0_only_the_choice_of_the_branch_hangs_on_the_seed(backend, keys, alike):
    torch.manual_seed(3)
    each, model = decoder(False, 31), Model(31)
    each.backends = (backend(),)
    model.led_states.states[:] = model.led_states.states[:, :1]
    model.led_states.positions.fill_(0)
    for row in range(ROWS):
        admit_request(each, row, keys, 0.0, [3])
    model.weight[[8, 9]] = model.led_states.states[:, 0].sum(0)  # the latent layers' favourites
    logits = torch.randn(1, 31).mul(0.1)
    logits[0, 7], logits[0, 8], logits[0, 9] = 4.0, 3.9, 1.0
    logits = logits.expand(ROWS, -1).contiguous()
    drawn = each.draw(model, logits, torch.arange(ROWS), torch.zeros(ROWS))
    assert len(set(drawn.tokens.tolist())) == (1 if alike else 2)


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
