"""Random rows of every kind, drawn in two ways that must agree: for the tests of the draws."""

import random
from types import SimpleNamespace

import pytest
import torch

from led_rl.decoding import AGGREGATIONS
from led_rl.engines.vllm_plugin.admission import admit
from led_rl.engines.vllm_plugin.latent_states import LatentStates
from led_rl.engines.vllm_plugin.submission import speller
from led_rl.sampler.capture_options import EngineOptions
from led_rl.sampler.latent_layers import Head, latent_statistics
from led_rl.sampler.request_decoder import RequestDecoder

LAYERS, HIDDEN, ROWS = 8, 16, 40
CPU = torch.device("cpu")


class Model:
    """A head and latent states, as LatentStatesMixin hands them on."""

    def __init__(self, vocab: int, device: torch.device = CPU):
        self.weight = torch.randn(vocab, HIDDEN).to(device)
        self.led_states = LatentStates(LAYERS, ROWS, HIDDEN, torch.float32)
        self.led_states.states.normal_()
        for name in ("rows", "tokens", "positions", "states"):
            setattr(self.led_states, name, getattr(self.led_states, name).to(device))

    def led_head(self):
        return Head(self.weight, len(self.weight), whole=True)

    def latent_logits(self, order, rows, normed):
        states = self.led_states.read(order[:, None], rows)[:, 0]
        if normed is not None:
            states = torch.where(normed[:, None], torch.tanh(states), states)
        return states @ self.weight.T

    def latent_statistics(self, order, rows, candidates, scale, normed, needed):
        states = self.led_states.read(order, rows)
        if normed is not None:
            states = torch.where(normed[:, None, None], torch.tanh(states), states)
        return latent_statistics(states, self.led_head(), candidates, scale, needed)


def decoder(final_entropy, vocab=0, device=CPU, baselines=()):
    options = EngineOptions(LAYERS, final_entropy=final_entropy, baselines=baselines)
    return RequestDecoder(options, LAYERS, vocab, ROWS, device)


def admit_request(decoder, row, extra_args, temperature, prompt):
    params = SimpleNamespace(extra_args=extra_args, seed=row, temperature=temperature)
    spell = speller(SimpleNamespace(skip_tokenizer_init=True))
    admit(decoder.slots, row, params, prompt, spell)


def requests(generator, alike, **fixed):
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
        } | fixed
        one = one or extra_args
        temperature = generator.choice([0.0, 0.5, 1.0, 1.7])
        yield (one if alike else extra_args), temperature, generator.choice([[7, 3], [3, 4, 5], [3, 4], [9]])


def drawn_rows(drawn):
    """Where each row that was drawn stands in the result."""
    if drawn is None:
        return {}
    counts = [True] * len(drawn.rows) if drawn.active is None else drawn.active.tolist()
    return {row: i for i, row in enumerate(drawn.rows.tolist()) if counts[i]}


def agree(
    vocab,
    alike,
    final_entropy,
    ours,
    theirs,
    *,
    rows=ROWS,
    steps=12,
    few=False,
    half=False,
    read_all=False,
    device=CPU,
    **fixed,
):
    """Draws the same rows in two ways, and demands the same phases, tokens, policies, traces and totals.

    Args:
        ours, theirs: the backends of the decoder (backend.py); more than one set take turns.
        rows: of all requests, the first so many are in the batch.
        few: a grammar masks all but three tokens.
        half: logits are bfloat16, and no two of a row are equal.
        fixed: of the requests' settings.

    Returns:
        Number of rows drawn, and the totals.
    """
    torch.manual_seed(vocab + alike)
    generator = random.Random(vocab)
    decoders = [decoder(final_entropy, vocab, device) for _ in range(2)]
    model = Model(vocab, device)
    admitted = list(requests(generator, alike, **fixed))

    def admit(row):
        extra_args, temperature, prompt = admitted[row]
        for each in decoders:
            admit_request(each, row, extra_args, temperature, prompt)

    usual = [row % 10 == 9 for row in range(ROWS)]  # these decode as usual
    for row in range(ROWS):
        if not usual[row]:
            admit(row)
    slots = torch.tensor([ROWS if usual[row] else row for row in range(rows)], device=device)
    temperature = torch.tensor([temperature for _, temperature, _ in admitted[:rows]], device=device)
    known = torch.tensor([len(prompt) for *_, prompt in admitted])
    drawn = 0
    for step in range(steps):
        if step == steps // 2:  # a request ends, and another takes its slot
            for each in decoders:
                each.slots.release(0)
            admit(0)
        logits = torch.randn(rows, vocab).argsort() / 4 if half else torch.randn(rows, vocab) * 3
        masked = vocab - 3 if few else vocab // 3
        logits[:, generator.sample(range(vocab), masked)] = float("-inf")  # a grammar's mask
        logits[::4] *= 30  # hardly a doubt
        logits = logits.to(device, torch.bfloat16 if half else torch.float32)
        model.led_states.tokens.copy_(torch.tensor([generator.choice([3, 4, 5, 9]) for _ in range(ROWS)]))
        model.led_states.positions.copy_(known - 1 + step)
        results = []
        for each, ways in zip(decoders, (ours, theirs), strict=True):
            each.backends = ways[step % len(ways)] or each.backends
            each.check.done, each.trace = not read_all, []
            results.append(each.draw(model, logits.clone(), slots, temperature))
        places = [drawn_rows(result) for result in results]
        assert set(places[0]) == set(places[1])
        torch.testing.assert_close(decoders[0].step_sums, decoders[1].step_sums, rtol=1e-5, atol=1e-4)
        for row in places[0]:
            policies, tokens = [], []
            for result, at in zip(results, places, strict=True):
                ids = result.candidates[at[row]]
                assert 0 <= int(ids.min()) <= int(ids.max()) < vocab
                assert len(set(ids.tolist())) == len(ids)
                policy = torch.zeros(vocab, dtype=torch.float64, device=device)
                policies.append(policy.index_add_(0, ids, result.policy[at[row]]))
                tokens.append(int(result.tokens[at[row]]))
            torch.testing.assert_close(*policies, atol=2e-6, rtol=0)
            assert tokens[0] == tokens[1]
            assert policies[0][tokens[0]] > 0
            same_trace(*(each.trace[0].draws[row] for each in decoders))
            drawn += 1
    totals, in_torch = (each.totals() for each in decoders)
    assert totals == pytest.approx(in_torch, rel=1e-5, abs=1e-4)
    assert bool(totals["entropy_final"]) == final_entropy
    return drawn, totals


def same_trace(one, other):
    """That two traced draws say the same of a row."""
    (ours, i), (theirs, j) = one, other
    torch.testing.assert_close(
        torch.stack([ours.explored[i].double(), ours.confidence[i].double()]),
        torch.stack([theirs.explored[j].double(), theirs.confidence[j].double()]),
        atol=2e-6,
        rtol=0,
    )
    reads = [traced.read is not None and bool(traced.read[at]) for traced, at in (one, other)]
    assert reads[0] == reads[1]
    if reads[0]:
        assert ours.depth[i] == theirs.depth[j]
        likely = (theirs.table[j][0] > 0).expand_as(theirs.table[j])  # masked tokens come in any order
        torch.testing.assert_close(ours.table[i][likely], theirs.table[j][likely], atol=1e-5, rtol=0)
