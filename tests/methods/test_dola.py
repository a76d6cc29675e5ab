"""DoLa against a float64 loop over a transformers model's hidden states, and the layers of its buckets."""

import math

import pytest
import torch

from led_rl.decoding import DecodingError, DecodingParams
from led_rl.engines.transformers_engine import TransformersEngine, chosen_layer_policy
from led_rl.methods.dola import dola, jensen_shannon

TEXT = "Solve 3 + 4 * (5 - 2) and say why, step by step."


def loop_over_vocabulary(p, q):
    """Jensen-Shannon divergence of two lists of probabilities."""
    total = 0.0
    for a, b in zip(p, q, strict=True):
        m = (a + b) / 2
        total += (a * math.log(a / m) if a > 0 else 0.0) / 2 + (b * math.log(b / m) if b > 0 else 0.0) / 2
    return total


def loop(final, layers, relative_top, temperature):
    """The paper's formulas for one row of (vocab,) float64 logits, one token at a time: policy and layer."""
    p = final.softmax(-1).tolist()
    premature = [layer.softmax(-1).tolist() for layer in layers]
    divergences = [loop_over_vocabulary(p, q) for q in premature]
    chosen = divergences.index(max(divergences))
    weights = [0.0] * len(p)
    for token, probability in enumerate(p):
        if probability >= relative_top * max(p):
            weights[token] = math.exp((math.log(probability) - math.log(premature[chosen][token])) / temperature)
    return torch.tensor(weights, dtype=torch.float64) / sum(weights), chosen


@pytest.fixture(scope="module")
def reference(tiny_model):
    return TransformersEngine(tiny_model)


@pytest.fixture(scope="module")
def hidden_states(reference):
    with torch.no_grad():
        ids = torch.tensor([reference.tokenizer.encode(TEXT)])
        return reference.model(ids, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("layers", ["low", "high", (1, 5, 6)])
@pytest.mark.parametrize(("relative_top", "temperature"), [(0.1, 1.0), (0.0, 0.6), (0.3, 1.7)])
@torch.no_grad()
def test_the_policy_is_the_paper_s_over_the_hidden_states_of_transformers(
    reference, hidden_states, layers, relative_top, temperature
):
    vocabulary = reference.model.config.vocab_size
    params = DecodingParams("dola", k=vocabulary, dola_layers=layers, dola_relative_top=relative_top, think_only=False)
    logits = reference.layer_logits([state[0] for state in hidden_states], params)
    found = chosen_layer_policy(logits, params, temperature)
    head = reference.model.get_output_embeddings().weight.double()
    numbers = {"low": range(0, 6, 2), "high": range(6, 12, 2)}.get(layers, layers)  # of 12 layers
    assert params.layers(12) == tuple(numbers)
    for position in range(len(logits)):
        premature = [hidden_states[layer][0, position].double() @ head.T for layer in numbers]  # no final norm
        final = hidden_states[-1][0, position].double() @ head.T  # after it
        expected, _ = loop(final, premature, relative_top, temperature)
        torch.testing.assert_close(found[position].double(), expected, atol=2e-5, rtol=1e-4)


def test_every_row_has_its_own_settings_and_forbidden_tokens_stay_out():
    generator = torch.Generator().manual_seed(0)
    final = torch.randn(6, 50, generator=generator) * 3
    premature = [torch.randn(6, 50, generator=generator) * 2 for _ in range(4)]
    final[:, 7] = -torch.inf
    values, candidates = final.topk(20, dim=-1)
    tops, temperatures = torch.tensor([0.0, 0.1, 0.5, 1.0, 0.1, 0.1]), torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 0.7])
    counts, greedy = torch.tensor([4, 3, 2, 1, 4, 4]), torch.tensor([False] * 5 + [True])
    allowed = ~torch.isneginf(values)
    together = dola(final, premature, candidates, allowed, relative_top=tops, temperature=temperatures, count=counts,
                    greedy=greedy)  # fmt: skip
    kept = torch.ones(50, dtype=torch.bool)
    kept[7] = False
    for row in range(6):
        layers = [layer[row, kept].double() for layer in premature[: counts[row]]]
        within, layer = loop(final[row, kept].double(), layers, float(tops[row]), float(temperatures[row]))
        expected = torch.zeros(50, dtype=torch.float64).masked_scatter(kept, within)[candidates[row]]
        expected = expected / expected.sum()
        if greedy[row]:
            expected = torch.zeros(20, dtype=torch.float64).scatter(0, expected.argmax()[None], 1.0)
        torch.testing.assert_close(together.policy[row], expected, atol=1e-5, rtol=1e-4)
        assert together.layer[row] == layer
    assert len(set(together.layer.tolist())) > 2


def test_a_layer_that_is_not_finite_is_never_chosen():
    final, sound = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    broken = torch.full((1, 3), torch.nan)
    candidates, allowed = torch.tensor([[0, 1, 2]]), torch.ones(1, 3, dtype=torch.bool)
    contrast = dola(final, [broken, sound], candidates, allowed, relative_top=0.0)
    assert contrast.layer.tolist() == [1]
    torch.testing.assert_close(contrast.policy, (final - sound).double().softmax(-1))
    alone = dola(final, [broken], candidates, allowed, relative_top=0.0)
    torch.testing.assert_close(alone.policy, final.double().softmax(-1))  # nothing to contrast with


def test_the_divergence_is_bounded_and_symmetric():
    p, q = (torch.randn(5, 30, generator=torch.Generator().manual_seed(i)).double().log_softmax(-1) for i in (1, 2))
    torch.testing.assert_close(jensen_shannon(p, q), jensen_shannon(q, p))
    apart = torch.tensor([[0.0, -torch.inf]], dtype=torch.float64)
    torch.testing.assert_close(jensen_shannon(apart, apart.flip(1)), torch.tensor([math.log(2)], dtype=torch.float64))
    assert jensen_shannon(apart, apart).tolist() == [0.0]


@pytest.mark.parametrize(
    ("layers", "model", "tied", "expected"),
    [  # what transformers' implementation of DoLa takes for these models
        ("low", 32, False, range(0, 16, 2)),
        ("high", 32, False, range(16, 32, 2)),
        ("low", 36, True, range(2, 18, 2)),
        ("high", 36, True, range(18, 36, 2)),
        ("low", 64, False, range(0, 20, 2)),
        ("high", 64, False, range(44, 64, 2)),
        ("low", 4, True, (2,)),
        ("low", 2, True, (1,)),
        ("low", 1, True, (0,)),
        ((7, 3), 12, True, (7, 3)),
    ],
)
def test_buckets(layers, model, tied, expected):
    assert DecodingParams("dola", dola_layers=layers).layers(model, tied) == tuple(expected)


@pytest.mark.parametrize(
    ("layers", "model", "parts"),
    [("low", 3, ("led_dola_layers=low", "3 layers", "tied")), ((3, 12), 12, ("led_dola_layers", "[12]", "0 to 11"))],
)
def test_layers_that_a_model_lacks_are_refused(layers, model, parts):
    with pytest.raises(DecodingError) as error:
        DecodingParams("dola", dola_layers=layers).layers(model, tied=True)
    assert all(part in str(error.value) for part in parts)
