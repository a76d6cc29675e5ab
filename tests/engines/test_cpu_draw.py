"""The compiled loops of the CPU against the same draw in torch."""

import random
from types import SimpleNamespace

import pytest
import torch

from led_rl.decoding import AGGREGATIONS
from led_rl.engines import cpu_draw, cpu_kernels
from led_rl.engines.kernels import Head, latent_statistics
from led_rl.engines.request_decoder import RequestDecoder
from led_rl.engines.vllm_models import LatentStates

LAYERS, HIDDEN, ROWS = 8, 16, 40
CPU = torch.device("cpu")


class Model:
    """A head and latent states, as LatentStatesMixin hands them on."""

    def __init__(self, vocab: int):
        self.weight = torch.randn(vocab, HIDDEN)
        self.led_states = LatentStates(LAYERS - 1, ROWS, HIDDEN, torch.float32)
        self.led_states.states.normal_()

    def led_head(self):
        return Head(self.weight, len(self.weight), whole=True)

    def latent_statistics(self, order, rows, candidates, scale, normed, needed):
        states = self.led_states.read(order, rows)
        return latent_statistics(states, self.led_head(), candidates, scale, needed)


def decoder(monkeypatch, final_entropy):
    monkeypatch.setenv("LED_RL_DEPTH", str(LAYERS))
    monkeypatch.setenv("LED_RL_FINAL_ENTROPY", str(int(final_entropy)))
    model_config = SimpleNamespace(hf_text_config=SimpleNamespace(num_hidden_layers=LAYERS), skip_tokenizer_init=True)
    return RequestDecoder(SimpleNamespace(model_config=model_config), ROWS, CPU)


def requests(generator, alike):
    """(extra_args, temperature, prompt) of each row; some rows decode as usual or think no more."""
    one = None
    for _ in range(ROWS):
        extra_args = {
            "led_decoding": generator.choice(["led", "led", "led", "top_k_control"]),
            "led_depth": generator.randrange(1, LAYERS + 1),
            "led_k": generator.randrange(1, 12),
            "led_exploit": int(generator.random() < 0.8),
            "led_draw": generator.choice(["coin", "marginal"]),
            "led_aggregation": generator.choice(AGGREGATIONS),
            "led_start_marker": [3],
            "led_end_marker": [4, 5],
        }
        one = one or extra_args
        temperature = generator.choice([0.0, 0.5, 1.0, 1.7])
        yield (one if alike else extra_args), temperature, generator.choice([[7, 3], [3, 4, 5], [3, 4], [9]])


@pytest.mark.parametrize("vocab", [31, 5000])
@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("final_entropy", [True, False])
def test_the_compiled_draw_is_torch_s(monkeypatch, vocab, alike, final_entropy):
    torch.manual_seed(vocab + alike)
    generator = random.Random(vocab)
    compiled, in_torch = (decoder(monkeypatch, final_entropy) for _ in range(2))
    model = Model(vocab)
    temperatures = []
    for row, (extra_args, temperature, prompt) in enumerate(requests(generator, alike)):
        temperatures.append(temperature)
        params = SimpleNamespace(extra_args=extra_args, seed=row, temperature=temperature)
        for each in (compiled, in_torch):
            each.admit(row, params, prompt)
    slots, temperature = torch.arange(ROWS), torch.tensor(temperatures)
    known = torch.tensor([len(prompt) for *_, prompt in requests(random.Random(vocab), alike)])
    drawn_rows = 0
    for step in range(12):
        logits = torch.randn(ROWS, vocab) * 3
        logits[:, generator.sample(range(vocab), vocab // 3)] = float("-inf")  # a grammar's mask
        model.led_states.tokens[:] = torch.tensor([generator.choice([3, 4, 5, 9]) for _ in range(ROWS)])
        model.led_states.positions[:] = known - 1 + step
        results = []
        for each, loops in ((compiled, True), (in_torch, False)):
            with monkeypatch.context() as patch:
                if not loops:
                    patch.setattr("led_rl.engines.request_decoder.compiles", lambda needs: False)
                results.append(each.draw(model, logits.clone(), slots, temperature))
        if results[0] is None:
            assert results[1] is None
            continue
        ours, theirs = ({int(row): i for i, row in enumerate(result.rows)} for result in results)
        assert set(ours) == set(theirs)
        for row, i in ours.items():
            j = theirs[row]
            policies = [torch.zeros(vocab).double() for _ in results]
            for policy, result, at in zip(policies, results, (i, j), strict=True):
                policy.index_add_(0, result.candidates[at], result.policy[at])
            torch.testing.assert_close(*policies, atol=2e-6, rtol=0)
            assert results[0].tokens[i] == results[1].tokens[j]
            drawn_rows += 1
    assert drawn_rows > 100
    ours, theirs = compiled.totals(), in_torch.totals()
    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-4)
    assert bool(ours["entropy_final"]) == final_entropy
    assert ours["read"] > 50


def test_only_decodings_with_loops_are_compiled():
    assert cpu_draw.compiles(SimpleNamespace(decodings=cpu_draw.COMPILED))
    assert not cpu_draw.compiles(SimpleNamespace(decodings=(*cpu_draw.COMPILED, -1)))


def test_the_largest_logits_are_distinct_tokens_even_where_few_are_allowed():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 20, generator=generator)
    logits[torch.rand(200, 20, generator=generator) < 0.7] = float("-inf")
    rows = torch.arange(0, 200, 2)
    values, candidates, first = torch.empty(100, 8), torch.empty(100, 8, dtype=torch.int64), torch.empty(100)
    arrays = [tensor.numpy() for tensor in (logits, 2 * logits, rows, values, candidates, first)]
    cpu_kernels.top_k(*arrays)
    assert torch.equal(values, logits[rows].topk(8).values)
    assert torch.equal(logits[rows].gather(1, candidates), values)
    assert torch.equal(first, 2 * values[:, 0])
    assert all(len(set(row)) == 8 for row in candidates.tolist())
