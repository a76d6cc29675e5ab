"""The choice of a near-final layer against a float64 loop over a transformers model's hidden states."""

import math

import pytest
import torch

from led_rl.decoding import DecodingParams
from led_rl.engines.transformers_engine import TransformersEngine, chosen_layer_policy
from led_rl.methods.near_final import TIE, near_final

TEXT = "Solve 3 + 4 * (5 - 2) and say why, step by step."


def loop(layers, k, temperature):
    """The paper's search for one row, from (vocab,) float64 logits, the final layer's first: policy and layers back."""
    entropies = []
    for layer in layers:
        probabilities = layer.softmax(-1).tolist()
        entropies.append(-sum(p * math.log(p) for p in probabilities if p > 0))
    back = 0
    while back + 1 < len(layers) and entropies[back + 1] < entropies[back] - TIE:
        back += 1
    chosen = layers[back]
    top = sorted(range(len(chosen)), key=lambda token: -float(chosen[token]))[:k]
    weights = [math.exp(float(chosen[token] - chosen.max()) / temperature) for token in top]
    policy = torch.zeros(len(chosen), dtype=torch.float64)
    for token, weight in zip(top, weights, strict=True):
        policy[token] = weight / sum(weights)
    return policy, back


@pytest.mark.parametrize(("window", "k", "temperature"), [(10, 20, 1.0), (3, 5, 0.6), (99, 119, 1.5)])
@torch.no_grad()
def test_the_policy_is_the_paper_s_over_the_hidden_states_of_transformers(tiny_model, window, k, temperature):
    reference = TransformersEngine(tiny_model)
    params = DecodingParams("near_final", k=k, near_final_layers=window, think_only=False)
    numbers = params.layers(12)
    assert numbers == tuple(range(11, max(11 - window, 0), -1))
    ids = torch.tensor([reference.tokenizer.encode(TEXT)])
    hidden_states = reference.model(ids, output_hidden_states=True).hidden_states
    found = chosen_layer_policy(reference.layer_logits([s[0] for s in hidden_states], params), params, temperature)
    head, norm = reference.model.get_output_embeddings().weight.double(), reference.model.base_model.norm
    backs = set()
    for position in range(ids.shape[1]):
        latent = [norm(hidden_states[layer][0, position]).double() @ head.T for layer in numbers]
        layers = [hidden_states[-1][0, position].double() @ head.T, *latent]  # the last has its norm
        expected, back = loop(layers, k, temperature)
        backs.add(back)
        torch.testing.assert_close(found[position].double(), expected, atol=2e-5, rtol=1e-4)
    assert len(backs) > 1


def flat(*sharpness):
    """(1, 4) logits whose entropy falls with their sharpness, each layer with a favourite of its own."""
    return [torch.roll(torch.tensor([[s, 0.0, 0.0, 0.0]]), i % 4, 1) for i, s in enumerate(sharpness)]


@pytest.mark.parametrize(
    ("sharpness", "back"),
    [
        ((3.0, 2.0, 9.0), 0),  # the entropy rises at once: the final layer, whatever lies beyond
        ((1.0, 2.0, 3.0, 2.0, 9.0), 2),  # the nearest valley, not the deepest
        ((1.0, 2.0, 3.0), 2),  # falls all the way: the end of the window
        ((2.0, 2.0, 9.0), 0),  # equal does not fall
        ((2.0, math.nan, 9.0), 0),
        ((2.0,), 0),
    ],
)
def test_the_search_goes_back_to_the_first_valley(sharpness, back):
    final, *latent = flat(*sharpness)
    chosen = near_final(final, latent, 4)
    assert chosen.back.tolist() == [back]
    assert chosen.candidates[0, 0] == back % 4
    torch.testing.assert_close(chosen.policy.max(), flat(*sharpness)[back].double().softmax(-1).max())


def test_every_row_has_its_own_settings_and_forbidden_tokens_stay_out():
    generator = torch.Generator().manual_seed(1)
    layers = [torch.randn(5, 40, generator=generator) * (1 + 0.5 * i) for i in range(5)]
    layers[0][:, 3] = -torch.inf
    temperatures, ks = torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0]), torch.tensor([12, 3, 1, 12, 7])
    counts, greedy = torch.tensor([4, 2, 3, 0, 4]), torch.tensor([False] * 4 + [True])
    chosen = near_final(layers[0], layers[1:], 12, own_k=ks, temperature=temperatures, count=counts, greedy=greedy)
    kept = torch.arange(40) != 3
    for row in range(5):
        alone = [layer[row, kept].double() for layer in layers[: 1 + counts[row]]]
        within, back = loop(alone, int(ks[row]), float(temperatures[row]))
        expected = torch.zeros(40, dtype=torch.float64).masked_scatter(kept, within)
        if greedy[row]:
            expected = torch.zeros(40, dtype=torch.float64).scatter(0, expected.argmax()[None], 1.0)
        whole = torch.zeros(40, dtype=torch.float64).scatter(0, chosen.candidates[row], chosen.policy[row])
        torch.testing.assert_close(whole, expected, atol=1e-6, rtol=1e-5)
        assert chosen.back[row] == back
        assert chosen.policy[row, ks[row] :].sum() == 0
