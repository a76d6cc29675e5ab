"""Noise in middle layers (led_rl/methods/latent_noise.py): the engine draws as usual, the next pass is disturbed."""

import torch

from led_rl.sampler.carried import NextInput
from led_rl.sampler.step import Draw, Step


def draw_latent_noise(step: Step) -> Draw:
    """Leaves the token to the engine's own sampling and hands on how strong the noise of its forward pass will be."""
    carried = step.carried
    assert carried is not None
    candidates, posteriors, _ = step.final_layer()
    confidence = posteriors[:, 0]
    scale = step.number("noise_scale", "latent_noise") * (1 - confidence)
    none = candidates[:, :0]
    given = NextInput(none, posteriors[:, :0], torch.zeros_like(confidence), scale)
    policy = torch.ones_like(posteriors[:, :1])  # not known here: the token is drawn later
    return Draw(None, candidates[:, :1], policy, carried.changed.to(confidence.dtype), confidence, next_input=given)
