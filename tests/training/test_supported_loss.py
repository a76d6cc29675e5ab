"""The loss over sampled supports against float64 enumerations, and against TRL's own head where both must agree."""

import itertools

import pytest
import torch
import trl.trainer.utils as trl_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import add_fused_lm_head

from led_rl.led import led_distribution
from led_rl.training.correction import CLASSES, finite_or_none, ratio_statistics, token_classes
from led_rl.training.supported_loss import Head, SupportLogProb, Supports, SupportSwitch
from led_rl.training.turns import Turn, align_turns

VOCAB, HIDDEN = 23, 12


def draw_supports(generator, n, vocab=VOCAB, most=9):
    """(n, k) ragged supports, -1 beyond each, and a target in each."""
    sizes = torch.randint(1, most + 1, (n,), generator=generator)
    ids = torch.full((n, most), -1, dtype=torch.int64)
    targets = torch.empty(n, dtype=torch.int64)
    for row, size in enumerate(sizes.tolist()):
        ids[row, :size] = torch.randperm(vocab, generator=generator)[:size]
        targets[row] = ids[row, torch.randint(size, (), generator=generator)]
    return ids, targets


def enumerated(hidden, weight, bias, ids, targets, temperature, soft_cap, scale):
    """The same in float64, over the whole vocabulary with everything outside the support masked."""
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    logits = logits * scale
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    allowed = torch.zeros(logits.shape, dtype=torch.bool)
    for row, support in enumerate(ids.tolist()):
        allowed[row, [i for i in support if i >= 0]] = True
    log_p = (logits / temperature).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    entropy = -(log_p.exp() * log_p.masked_fill(~allowed, 0.0)).sum(-1)
    return log_p.gather(1, targets[:, None]).squeeze(1), entropy


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("soft_cap", "scale"), [(None, 1.0), (3.0, 0.7)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("at_once", [4096, 13])
def test_values_and_gradients_are_the_enumeration_s(monkeypatch, with_bias, soft_cap, scale, temperature, at_once):
    monkeypatch.setattr("led_rl.training.supported_loss.ROWS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(3)
    ids, targets = draw_supports(generator, 40)
    leaves = [torch.randn(40, HIDDEN, generator=generator), torch.randn(VOCAB, HIDDEN, generator=generator)]
    leaves += [torch.randn(VOCAB, generator=generator)] if with_bias else []
    ours = [leaf.clone().requires_grad_() for leaf in leaves]
    theirs = [leaf.double().requires_grad_() for leaf in leaves]
    weights = torch.randn(40, generator=generator)
    head = Head(temperature, soft_cap, scale, torch.float32)
    log_p, entropy = SupportLogProb.apply(*ours[:2], ours[2] if with_bias else None, targets, ids, head, False)
    expected, spread = enumerated(
        *theirs[:2], theirs[2] if with_bias else None, ids, targets, temperature, soft_cap, scale
    )
    torch.testing.assert_close(log_p.double(), expected, atol=3e-6, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), spread, atol=3e-6, rtol=1e-5)
    (log_p * weights).sum().backward()
    (expected * weights).sum().backward()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.grad.double(), other.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("draw", ["marginal", "coin"])
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
@pytest.mark.parametrize("masked", [0, 4])
def test_the_mean_ratio_under_mu_is_one(draw, k, temperature, masked):
    """Whatever mass the policy leaves outside the support."""
    generator = torch.Generator().manual_seed(k)
    rows, depth = 16, 4
    weight = torch.randn(VOCAB, HIDDEN, generator=generator)
    hidden = torch.randn(rows, HIDDEN, generator=generator)
    final = hidden @ weight.T / temperature
    if masked:  # a grammar forbids some tokens
        final[:, :masked] = -torch.inf
    latents = torch.randn(rows, depth - 1, VOCAB, generator=generator) * 2
    led = led_distribution(torch.cat([final[:, None], latents], dim=1), k=k)
    log_pi = torch.stack(
        [
            SupportLogProb.apply(
                hidden,
                weight,
                None,
                led.candidates[:, j],
                led.candidates,
                Head(temperature, None, 1.0, torch.float32),
                False,
            )[0]
            for j in range(led.candidates.shape[1])
        ],
        dim=1,
    ).double()
    confidence = led.confidence.double()[:, None]
    branches = [(1.0, led.mu.double())]
    if draw == "coin":
        branches = [(confidence, led.exploit.double()), (1 - confidence, led.explore.double())]
    mean = sum((p * (mu * torch.where(mu > 0, log_pi.exp() / mu, 0.0))).sum(-1, keepdim=True) for p, mu in branches)
    torch.testing.assert_close(mean.squeeze(1), torch.ones(rows, dtype=torch.float64), atol=1e-6, rtol=0)


class Tiny(torch.nn.Module):
    """The least of a causal LM that TRL's fused head takes: embeddings, one layer, a head that may be tied."""

    def __init__(self, tied: bool):
        super().__init__()
        from types import SimpleNamespace

        class Backbone(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = torch.nn.Embedding(VOCAB, HIDDEN)
                self.layer = torch.nn.Linear(HIDDEN, HIDDEN)

            def forward(self, input_ids, attention_mask=None, use_cache=False):
                return SimpleNamespace(last_hidden_state=torch.tanh(self.layer(self.embed(input_ids)).cumsum(1)))

        self.base_model = Backbone()
        self.lm_head = torch.nn.Linear(HIDDEN, VOCAB, bias=False)
        if tied:
            self.lm_head.weight = self.base_model.embed.weight
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(model_type="tiny"))

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, labels=None):
        return self.lm_head(self.base_model(input_ids, attention_mask).last_hidden_state)


def fused(tied: bool, temperature: float):
    torch.manual_seed(0)
    model, switch = Tiny(tied), SupportSwitch()
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    switch.install(model)
    return model, switch


def batch(prompt=4, tokens=7, rows=5):
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(VOCAB, (rows, prompt + tokens), generator=generator)
    labels = input_ids.clone()
    labels[:, :prompt] = -100
    for row in range(rows):
        labels[row, prompt + tokens - row :] = -100  # completions end at different tokens
    return input_ids, labels


@pytest.mark.parametrize("tied", [False, True])
def test_a_support_of_the_whole_vocabulary_is_trl_s_loss(tied):
    results = []
    for whole in (False, True):
        model, switch = fused(tied, 0.7)
        input_ids, labels = batch()
        ids = torch.arange(VOCAB).expand(5, 7, -1)
        supports = Supports(ids if whole else torch.full((5, 7, 1), -1), torch.full((5, 7), -1.0))
        with switch.over(supports, gauges=True) as head:
            scored = model(input_ids=input_ids, labels=labels, fused_lm_head=True)
        (scored.log_probs * torch.arange(50.0).view(5, 10)).sum().backward()
        results.append((scored.log_probs, scored.entropy, *[p.grad for p in model.parameters()]))
        if whole:
            torch.testing.assert_close(torch.cat(head.masses), torch.ones(25), atol=1e-5, rtol=0)
    for trl, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, trl, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("pieces", [1, 2])
def test_tokens_with_and_without_supports_share_a_batch(tied, pieces):
    """Some tokens over their supports, some over the vocabulary, some not counted; gradients as autograd's own."""
    model, switch = fused(tied, 0.9)
    input_ids, labels = batch()
    generator = torch.Generator().manual_seed(5)
    ids = torch.full((5, 7, 6), -1)
    for row, token in itertools.product(range(5), range(7)):
        if (row + token) % 3:
            others = torch.randperm(VOCAB, generator=generator)[:4]
            target = input_ids[row, 4 + token]
            ids[row, token, :5] = torch.cat([target[None], others[others != target], others[:1].fill_(-1)])[:5]
    supports = Supports(ids, torch.full((5, 7), -1.0))
    with switch.over(supports, gauges=False):
        parts = [
            model(input_ids=i, labels=label, fused_lm_head=True).log_probs
            for i, label in zip(input_ids.chunk(pieces), labels.chunk(pieces), strict=True)
        ]
    scored = torch.cat(parts)
    (scored * torch.linspace(-1, 1, 50).view(5, 10)).sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    assert not any(grad.is_sparse for grad in grads)

    model.zero_grad()
    logits = model(input_ids)[:, 3:-1] / 0.9  # (5, 7, vocab)
    allowed = torch.zeros(logits.shape, dtype=torch.bool)
    for row, token in itertools.product(range(5), range(7)):
        support = [i for i in ids[row, token].tolist() if i >= 0]
        allowed[row, token, support or slice(None)] = True
    log_p = logits.masked_fill(~allowed, -torch.inf).log_softmax(-1).gather(-1, input_ids[:, 4:, None]).squeeze(-1)
    log_p = log_p.masked_fill(labels[:, 4:] == -100, 0.0)
    torch.testing.assert_close(scored[:, 3:], log_p, atol=1e-5, rtol=1e-5)
    (log_p * torch.linspace(-1, 1, 50).view(5, 10)[:, 3:]).sum().backward()
    for own, autograd in zip(grads, (p.grad for p in model.parameters()), strict=True):
        torch.testing.assert_close(own, autograd, atol=1e-5, rtol=1e-5)


def test_the_gauge_is_the_policy_s_mass_on_the_support():
    model, switch = fused(False, 1.0)
    input_ids, labels = batch()
    ids = torch.stack([input_ids[:, 4:], (input_ids[:, 4:] + 1) % VOCAB], dim=-1)
    with switch.over(Supports(ids, torch.zeros(5, 7)), gauges=True) as head, torch.no_grad():
        model(input_ids=input_ids, labels=labels, fused_lm_head=True)
    p = model(input_ids)[:, 3:-1].softmax(-1).gather(-1, ids).sum(-1)
    torch.testing.assert_close(torch.cat(head.masses), p[labels[:, 4:] != -100], atol=1e-6, rtol=1e-5)


def test_without_a_switch_the_loss_is_trl_s_own_bit_for_bit():
    torch.manual_seed(0)
    plain = Tiny(False)
    add_fused_lm_head(plain, temperature=0.9, outputs=("log_probs", "entropy"))
    model, _ = fused(False, 0.9)
    input_ids, labels = batch()
    ours, trl = (m(input_ids=input_ids, labels=labels, fused_lm_head=True).log_probs for m in (model, plain))
    assert torch.equal(ours, trl)
    assert trl_utils._ChunkedLogProbFunction.__name__ == "ChunkedLogProbFunction"


def test_records_become_padded_tables():
    supports = Supports.of([[[-1, 5, 2], [-10001, 7], []], [[3, 4]]], 4, torch.device("cpu"))
    assert supports.ids.tolist() == [
        [[5, 2], [7, -1], [-1, -1], [-1, -1]],
        [[3, 4], [-1, -1], [-1, -1], [-1, -1]],
    ]
    assert supports.explored.tolist() == [[0, 1, -1, -1], [-1, -1, -1, -1]]


def test_turns_are_laid_along_completions_with_tool_results_between():
    prompts = [[1, 2], [1, 2], [3]]
    first = [Turn([1, 2], [5, 6], [[5], [6, 7]]), Turn([1, 2], [8], [[8]]), Turn([3], [9], [[9]])]
    later = [
        Turn([3, 9, 0, 0], [4, 4], [[4], [4, 1]]),
        Turn([1, 2, 8, 0], [5], [[5]]),
        Turn([1, 2, 8, 0, 5, 0], [7], [[7]]),
    ]
    completions = [[5, 6], [8, 0, 5, 0, 7], [9, 0, 0, 4]]  # the last was cut short
    assert align_turns([*first, *later], prompts, completions) == [
        [[5], [6, 7]],
        [[8], [], [5], [], [7]],
        [[9], [], [], [4]],
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_ratio_statistics_are_the_weighted_moments(seed):
    generator = torch.Generator().manual_seed(seed)
    log_ratio = torch.randn(4, 6, generator=generator)
    explored = torch.rand(4, 6, generator=generator)
    explored[explored > 0.7] = -1.0
    mask = (torch.rand(4, 6, generator=generator) > 0.2).float()
    log_ratio[0, 0] = -torch.inf
    weights = token_classes(explored, mask)
    torch.testing.assert_close(weights.sum(0), mask)
    found = ratio_statistics(log_ratio, weights, 2.0, lambda values, how: values)
    for i, name in enumerate(CLASSES):
        w = weights[i].clone()
        w[0, 0] = 0
        if w.sum() == 0:
            continue
        r = log_ratio.exp().nan_to_num(0)
        assert found[f"{name}/ratio_mean"] == pytest.approx(float((w * r).sum() / w.sum()), rel=1e-4)
        assert found[f"{name}/clipped_share"] == pytest.approx(float((w * (r > 2)).sum() / w.sum()), abs=1e-5)
        size = (w * r).sum() ** 2 / (w.sum() * (w * r**2).sum())
        assert found[f"{name}/effective_sample_share"] == pytest.approx(float(size), rel=1e-4)
        assert found[f"{name}/ratio_max"] == pytest.approx(float(r[w > 0].max()), rel=1e-5)


def test_log_probabilities_that_are_not_finite_are_not_corrected():
    assert finite_or_none([[-1.0, float("-inf"), None, float("nan")]]) == [[-1.0, None, None, None]]
