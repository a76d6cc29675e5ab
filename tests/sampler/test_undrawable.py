"""Rows whose logits are no distribution: drawn as vLLM's own sampler draws them, and no other row changes for them."""

import json
import sys
import traceback
from itertools import product

import pytest
import torch
from draw_cases import ROWS, Model, admit_request, decoder, drawn_rows
from subprocesses import run_command

from led_rl.decoding import AGGREGATIONS
from led_rl.sampler.in_torch import TorchDraw
from led_rl.sampler.on_cpu.draw import CompiledDraw
from led_rl.sampler.on_gpu.draw import FusedDraw
from led_rl.sampler.support import StepSupport, read_record

VOCABULARIES = (31, 5000)
KINDS = ("all masked", "one NaN", "all NaN", "one inf", "NaN among masked", "a NaN before two inf")
DECODINGS = {
    "coin": {"led": 1},
    "marginal": {"led": 1, "led_draw": "marginal"},
    "no exploit": {"led": 1, "led_exploit": 0, "led_k": 3},
    "no exploit, marginal": {"led": 1, "led_exploit": 0, "led_draw": "marginal"},
    **{kind: {"led": 1, "led_aggregation": kind} for kind in AGGREGATIONS[1:]},
    "reference": {"led_decoding": "led_reference"},
    "control": {"led_decoding": "top_k_control"},
}
BROKEN = (1, 2, 5)  # rows of the batch; the first and the last of them are greedy
SIZE = 7
CASES = list(product(VOCABULARIES, KINDS, DECODINGS))
FOR_KERNELS = [  # few: Triton's interpreter takes a second a case
    *product(VOCABULARIES[:1], KINDS, ("coin", "no exploit, marginal", "product", "control")),
    *product(VOCABULARIES[1:], KINDS, ("coin",)),
]


class Interpreted(FusedDraw):
    def takes(self, needs, logits):
        return True


def break_rows(logits: torch.Tensor, kind: str) -> torch.Tensor:
    vocab, broken = logits.shape[1], logits.clone()
    for row in BROKEN:
        line = broken[row]
        if "masked" in kind:
            line[:] = -torch.inf
        if kind == "all NaN":
            line[:] = torch.nan
        if "inf" in kind:
            line[vocab // 2] = torch.inf
        if "two inf" in kind:
            line[vocab // 3] = torch.inf
        if kind in ("NaN among masked", "one NaN"):
            line[vocab - 2] = torch.nan
        if kind == "a NaN before two inf":
            line[2] = torch.nan
    return broken


def of_vllm(logits: torch.Tensor, greedy: list[bool]) -> list[int]:
    """What vLLM's own sampler draws from each row."""
    from vllm.v1.sample.ops.topk_topp_sampler import random_sample
    from vllm.v1.sample.sampler import Sampler

    drawn = random_sample(logits.softmax(-1), {}).tolist()
    first = Sampler.greedy_sample(logits).tolist()
    return [f if g else d for f, d, g in zip(first, drawn, greedy, strict=True)]


def check(backend, vocab: int, kind: str, name: str, count: int = 3) -> None:
    """Draws batches whole and with broken rows in them, `count` each; the first is verified."""
    torch.manual_seed(vocab)
    model, plain = Model(vocab), torch.randn(count, SIZE, vocab) * 3
    slots, temperature = torch.arange(SIZE), torch.ones(SIZE)
    temperature[[1, 3, 5]] = 0.0
    results = []
    for breaks in (False, True):
        each = decoder(True, vocab)
        each.backends = (backend(),)
        each.options = type(each.options)(each.options.depth, final_entropy=True, support=True)
        for row in range(SIZE):
            admit_request(each, row, DECODINGS[name], float(temperature[row]), [3])
        steps = []
        for step, clean in enumerate(plain):
            logits = break_rows(clean, kind) if breaks else clean.clone()
            model.led_states.tokens.fill_(9)
            model.led_states.positions.fill_(step)
            each.trace = []
            before = logits.clone()
            drawn = each.draw(model, logits, slots, temperature)
            scores = drawn.write_policy(torch.zeros(SIZE, vocab))
            support = StepSupport.of(logits, drawn, None).lists()
            steps.append((before, drawn, scores, support, each.step_sums.clone(), each.trace[0]))
        assert each.check.done == (name != "control")
        results.append((steps, each.totals()))
    for (_, whole, scores, _, sums, _), (broken_logits, part, broken_scores, support, broken_sums, trace) in zip(
        results[0][0], results[1][0], strict=True
    ):
        assert broken_sums.isfinite().all()
        at, expected = drawn_rows(part), of_vllm(broken_logits, (temperature == 0).tolist())
        for row in range(SIZE):
            if row not in BROKEN:
                for field in ("tokens", "candidates", "policy", "explored"):
                    assert torch.equal(getattr(whole, field)[row], getattr(part, field)[at[row]])
                assert torch.equal(scores[row], broken_scores[row])
                assert torch.equal(sums[row], broken_sums[row])
                continue
            token = int(part.tokens[at[row]])
            assert token == expected[row]
            ids = part.candidates[at[row]].tolist()
            assert len(set(ids)) == len(ids)
            assert 0 <= min(ids) <= max(ids) < vocab
            assert broken_scores[row, token] == 0
            assert broken_scores[row].isneginf().sum() == vocab - 1
            assert part.explored[at[row]] == 0
            draw, i = trace.draws[row]
            assert draw.confidence[i] == 1
            assert draw.read is None or not draw.read[i]
            records, begins = support
            assert read_record(records[begins[row] : begins[row + 1]].tolist()) == ([token], 0.0)
    totals = results[1][1]
    assert totals["rows"] == count * SIZE
    assert totals["undrawable"] == count * len(BROKEN)
    assert all(value == value and value < float("inf") for value in totals.values())
    assert results[0][1]["undrawable"] == 0


@pytest.mark.parametrize("backend", [CompiledDraw, TorchDraw])
@pytest.mark.parametrize(("vocab", "kind", "name"), CASES, ids=str)
def test_an_undrawable_row_is_drawn_as_vllm_draws_it_and_no_other_changes(backend, vocab, kind, name):
    if backend is CompiledDraw and name == "reference":
        pytest.skip("led_reference has no compiled loops")
    check(backend, vocab, kind, name)


@pytest.fixture(scope="module")
def interpreted():
    """By case: None, or its error in Triton's interpreter."""
    pytest.importorskip("triton")
    output = run_command(sys.executable, __file__, TRITON_INTERPRET="1", PYTHONPATH="tests", timeout=900)
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("case", map(str, FOR_KERNELS))
def test_the_kernels_do_so_too(interpreted, case):
    assert interpreted[case] is None, interpreted[case]


@pytest.mark.parametrize("backend", [CompiledDraw, TorchDraw])
def test_a_batch_of_nothing_else_leaves_the_first_batch_s_check_open(backend):
    """As with weights that are all NaN: every row falls back, and what was not read is not verified."""
    vocab = 31
    each, model = decoder(False, vocab), Model(vocab)
    each.backends = (backend(),)
    model.weight.fill_(torch.nan)
    for row in range(ROWS):
        admit_request(each, row, {"led": 1, "led_draw": ["coin", "marginal"][row % 2]}, 1.0, [3])
    model.led_states.positions.fill_(0)
    drawn = each.draw(model, torch.full((ROWS, vocab), torch.nan), torch.arange(ROWS), torch.ones(ROWS))
    assert drawn.tokens.tolist() == [0] * ROWS
    assert not each.check.done
    assert each.totals()["undrawable"] == ROWS


@pytest.mark.parametrize("backend", [CompiledDraw, TorchDraw])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_latent_layer_that_overflowed_says_nothing(backend, aggregation):
    """Its posteriors count as the floor; the first batch's check still sees that they are no probabilities."""
    vocab = 31
    keys = {"led": 1, "led_exploit": 0, "led_aggregation": aggregation}
    policies = []
    for value in (torch.nan, -1e4):
        torch.manual_seed(1)
        each, model = decoder(False, vocab), Model(vocab)
        each.backends, each.check.done = (backend(),), True
        model.led_states.states[0] = value  # the deepest latent layer
        if value < 0:  # the floor: a layer of which no candidate has any probability
            model.weight[:, 0], model.weight[vocab - 1] = model.weight[:, 0], -100.0
        admit_request(each, 0, keys, 1.0, [3])
        model.led_states.positions.fill_(0)
        logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(0))
        logits[0, vocab - 1] = -torch.inf
        drawn = each.draw(model, logits, torch.zeros(1, dtype=torch.int64), torch.ones(1))
        assert drawn.policy.isfinite().all()
        policies.append(drawn.policy.clone())
        if value != value:
            each.check.done = False
            with pytest.raises(RuntimeError, match="not probabilities"):
                each.draw(model, logits, torch.zeros(1, dtype=torch.int64), torch.ones(1))
    if aggregation != "max_entropy_layer":
        torch.testing.assert_close(*policies, atol=1e-3, rtol=0)


def main() -> None:
    results: dict[str, str | None] = {}
    for case in FOR_KERNELS:
        results[str(case)] = None
        try:
            check(Interpreted, *case, count=1 + (case[2] == "product"))
        except Exception:
            results[str(case)] = traceback.format_exc()[-2000:]
    print(json.dumps(results))


if __name__ == "__main__":
    main()
