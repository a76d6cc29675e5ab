"""LED as its reference code computes it: every row, every layer, a full softmax over the vocabulary. For benchmarks."""

import torch

from led_rl.decoding import AGGREGATIONS
from led_rl.led import combine, inverse_cdf
from led_rl.sampler.step import Draw, Read, Step


def draw_led_reference(step: Step) -> Draw:
    """One marginal draw, whatever the requests' `draw`."""
    candidates, p_final, allowed = step.final_layer()
    assert step.undrawable is not None
    layers = torch.stack([step.logits, *step.latent_logits()], dim=1).softmax(-1)  # (n, depth, vocab)
    table = layers.gather(-1, candidates[:, None].expand(-1, layers.shape[1], -1))
    table[:, 0] = torch.where(step.undrawable[:, None], p_final.to(table.dtype), table[:, 0])
    aggregation, exploits = step.aggregation(), step.exploit()
    led = combine(
        candidates,
        table,
        allowed,
        depth=step.depth(),
        greedy=step.greedy(),
        exploit=True if exploits is None else exploits,
        aggregation=AGGREGATIONS[aggregation] if isinstance(aggregation, int) else aggregation,
    )
    policy = led.mu.double()
    tokens = candidates.gather(1, inverse_cdf(policy, step.uniform)[:, None]).squeeze(1)
    explored = 1 - (led.confidence if exploits is None else torch.where(exploits, led.confidence, 0.0))
    read = Read(None, ~step.undrawable, led.depth, table)
    return Draw(tokens, candidates, policy, explored, led.confidence.double(), read)
