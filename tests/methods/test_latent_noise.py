"""Latent noise's pure functions: the law of its numbers, and its scale."""

import pytest
import torch

from led_rl.benchmarks.acceptance.laws import chi_square_p
from led_rl.methods.latent_noise import middle_layers, noise_of, normal
from led_rl.sampler.uniforms import key_of, streams, uniforms


def numbers(keys, positions, size=64):
    return normal(streams(keys, positions, 5, size), streams(keys, positions, 6, size))


def test_numbers_are_normal():
    keys = torch.tensor([key_of(seed) for seed in range(400)])
    z = numbers(keys, torch.arange(400), 100).double()
    edges = torch.tensor([-torch.inf, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, torch.inf], dtype=torch.float64)
    mass = torch.special.ndtr(edges).diff()
    assert chi_square_p(torch.bucketize(z.flatten(), edges) - 1, mass) > 1e-3
    assert abs(float((z[:, :-1] * z[:, 1:]).mean())) < 0.02  # of neighbouring components
    assert abs(float((z[:-1] * z[1:]).mean())) < 0.02


def test_numbers_depend_on_key_and_position_alone():
    keys = torch.tensor([key_of(seed) for seed in range(6)])
    together = numbers(keys, torch.arange(6))
    for row in range(6):
        assert torch.equal(numbers(keys[row : row + 1], torch.tensor([row])), together[row : row + 1])
    streams_of_two = [streams(keys[:1], torch.tensor([3]), which, 64) for which in (5, 6)]
    assert not set(streams_of_two[0].flatten().tolist()) & set(streams_of_two[1].flatten().tolist())
    draws = uniforms(keys[:1].expand(4096), torch.arange(4096))
    assert not set(draws.tolist()) & set(streams_of_two[0].flatten().tolist())


def test_noise_is_in_units_of_each_state_s_root_mean_square():
    torch.manual_seed(0)
    states = torch.randn(3, 4096) * torch.tensor([[0.1], [1.0], [30.0]])
    noise = noise_of(states, torch.tensor([0.5, 0.0, 0.1]), torch.randn(3, 4096))
    ratio = noise.square().mean(-1).sqrt() / states.square().mean(-1).sqrt()
    assert ratio.tolist() == pytest.approx([0.5, 0.0, 0.1], rel=0.05)


def test_the_middle_third_of_the_layers():
    assert [middle_layers(n) for n in (1, 2, 3, 12)] == [(0,), (0, 1), (1,), (4, 5, 6, 7)]
    assert list(middle_layers(36)) == list(range(12, 24))
