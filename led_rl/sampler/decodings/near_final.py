"""The entropy-guided choice of a near-final layer (led_rl/methods/near_final.py)."""

import torch

from led_rl.led import inverse_cdf
from led_rl.methods.near_final import near_final
from led_rl.sampler.columns import K
from led_rl.sampler.step import Draw, Read, Step


def draw_near_final(step: Step) -> Draw:
    """Draws from the chosen layer's most probable tokens; explored where that is not the final layer."""
    candidates, p_final, _ = step.final_layer()
    assert step.undrawable is not None
    chosen = near_final(
        step.untempered(),
        step.latent_logits(tempered=False),
        candidates.shape[1],
        own_k=None if step.needs.same_k else step.settings[:, K],
        temperature=step.temperature,
        count=None if step.needs.same_depth else step.latent_count(),
        greedy=step.greedy(),
    )
    undrawable = step.undrawable[:, None]
    policy = torch.where(undrawable, p_final, chosen.policy)
    candidates = torch.where(undrawable, candidates, chosen.candidates)
    tokens = candidates.gather(1, inverse_cdf(policy, step.uniform)[:, None]).squeeze(1)
    explored = (chosen.back > 0) & ~step.undrawable
    read = Read(None, ~step.undrawable, torch.where(explored, chosen.back, 0), chosen.tables)
    return Draw(tokens, candidates, policy, explored.double(), p_final[:, 0], read)
