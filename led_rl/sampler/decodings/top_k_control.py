"""Standard decoding restricted to the final layer's k most probable tokens: the control beside LED."""

import torch

from led_rl.led import exploit_branch, inverse_cdf
from led_rl.sampler.step import Draw, Step


def draw_top_k_control(step: Step) -> Draw:
    """Draws from the final layer's posterior over its k candidates; reads no latent layer."""
    candidates, p_final, allowed = step.final_layer()
    policy = exploit_branch(p_final, allowed, greedy=step.greedy(), eps=0.0)
    tokens = candidates.gather(1, inverse_cdf(policy, step.uniform)[:, None]).squeeze(1)
    return Draw(tokens, candidates, policy, torch.zeros_like(step.uniform), p_final[:, 0])
