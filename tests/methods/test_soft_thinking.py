"""Soft Thinking's pure functions: against the definition over a whole vocabulary, and by laws."""

import random

import pytest
import torch

from led_rl.benchmarks.acceptance.laws import chi_square_p
from led_rl.methods.soft_thinking import cold_stop, gumbel_softmax, mixing_weights


def expected_weights(p, soft_top_k, top_k, top_p, min_p):
    """Weights by token, one at a time: the definition."""
    ranked = sorted(range(len(p)), key=lambda token: -p[token])
    kept = ranked[: top_k or len(p)]
    total = sum(p[token] for token in kept) if top_k else 1.0
    nucleus, mass = [], 0.0
    for token in kept:
        if nucleus and mass >= top_p * total:
            break
        nucleus.append(token)
        mass += p[token]
    nucleus = [token for token in nucleus if p[token] >= min_p * p[ranked[0]]][:soft_top_k]
    total = sum(p[token] for token in nucleus)
    return [p[token] / total for token in nucleus]


def test_weights_are_those_of_the_definition():
    generator = random.Random(0)
    torch.manual_seed(0)
    rows, k = 200, 24
    p = (torch.randn(rows, 60, dtype=torch.float64) * 2).softmax(-1)
    settings = [
        (
            generator.choice([1, 5, 24]),
            generator.choice([0, 1, 7, 24]),
            generator.choice([1.0, 0.9, 0.3, 0.01]),
            generator.choice([0.0, 0.2]),
        )
        for _ in range(rows)
    ]
    columns = [torch.tensor(column) for column in zip(*settings, strict=True)]
    weights = mixing_weights(p.sort(descending=True).values[:, :k], *columns)
    for row in range(rows):
        expected = expected_weights(p[row].tolist(), *settings[row])
        assert weights[row].tolist() == pytest.approx(expected + [0.0] * (k - len(expected)), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.2, 0.5, 2.0])
def test_the_largest_gumbel_weight_falls_on_a_token_with_its_probability(temperature):
    """The Gumbel-max trick (Maddison et al., arXiv 1611.00712): whatever the temperature."""
    torch.manual_seed(0)
    rows, weights = 20_000, torch.tensor([0.55, 0.3, 0.1, 0.05, 0.0], dtype=torch.float64)
    uniform = torch.rand(rows, 5, dtype=torch.float64)
    mixed = gumbel_softmax(weights.expand(rows, -1), uniform, torch.full((rows,), temperature))
    assert torch.allclose(mixed.sum(-1), torch.ones(rows, dtype=torch.float64))
    assert (mixed[:, 4] == 0).all()
    assert chi_square_p(mixed.argmax(-1), weights) > 1e-3


def test_gumbel_weights_survive_the_ends_of_the_uniform_range():
    uniform = torch.tensor([[0.0, 1 - 2.0**-52]], dtype=torch.float64)
    mixed = gumbel_softmax(torch.tensor([[0.5, 0.5]], dtype=torch.float64), uniform, torch.tensor([0.001]))
    assert mixed.tolist() == [[0.0, 1.0]]


def test_a_thought_ends_after_so_many_steps_in_a_row_of_low_entropy():
    entropies = [0.1, 0.4, 0.1, 0.2, 0.05, 0.1]
    for threshold, length, ends in [(0.3, 3, [4]), (0.3, 1, [0, 2, 3, 4]), (0.0, 1, []), (0.3, 0, []), (9.0, 6, [5])]:
        low, found = torch.zeros(1), []
        for step, entropy in enumerate(entropies):
            low, stops = cold_stop(low, torch.tensor([entropy]), torch.tensor([threshold]), torch.tensor([length]))
            if bool(stops):
                found.append(step)
                break
        assert found == ends[:1]
