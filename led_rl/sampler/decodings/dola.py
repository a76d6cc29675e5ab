"""DoLa (led_rl/methods/dola.py): the final layer against the premature layer that differs most from it."""

import torch

from led_rl.led import inverse_cdf
from led_rl.methods.dola import dola
from led_rl.sampler.step import Draw, Read, Step


def draw_dola(step: Step) -> Draw:
    """Draws from the contrast over the final layer's candidates; reads every premature layer of every row, whole."""
    candidates, p_final, allowed = step.final_layer()
    assert step.undrawable is not None
    contrast = dola(
        step.untempered(),
        step.latent_logits(tempered=False),
        candidates,
        allowed,
        relative_top=step.number("dola_relative_top", "dola"),
        temperature=step.temperature,
        count=None if step.needs.same_depth else step.latent_count(),
        greedy=step.greedy(),
    )
    policy = torch.where(step.undrawable[:, None], p_final, contrast.policy)
    tokens = candidates.gather(1, inverse_cdf(policy, step.uniform)[:, None]).squeeze(1)
    drawn = ~step.undrawable
    read = Read(None, drawn, 1 + contrast.layer, contrast.posteriors)
    return Draw(tokens, candidates, policy, drawn.double(), p_final[:, 0], read)
