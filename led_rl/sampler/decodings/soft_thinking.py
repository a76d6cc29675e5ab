"""Soft Thinking (led_rl/methods/soft_thinking.py): the most probable token is recorded, a mix of tokens is fed."""

import torch
from torch import Tensor

from led_rl.methods.soft_thinking import cold_stop, gumbel_softmax, mixing_weights
from led_rl.sampler.carried import END, MIN_P, MOST_MIXED, TOP_K, TOP_P, NextInput
from led_rl.sampler.columns import KEY
from led_rl.sampler.step import Draw, Step
from led_rl.sampler.uniforms import streams

GUMBEL_STREAM = 1  # of a request's uniform numbers


def draw_soft_thinking(step: Step) -> Draw:
    """Takes the most probable token; its policy are the weights of the mix that the next forward pass is fed."""
    return _draw(step, "soft_thinking")


def draw_soft_thinking_gumbel(step: Step) -> Draw:
    """Takes the token of largest weight after Gumbel noise."""
    return _draw(step, "soft_thinking_gumbel")


def _draw(step: Step, decoding: str) -> Draw:
    carried, greedy = step.carried, step.greedy()
    assert carried is not None
    counted, step.wants_entropy = step.wants_entropy, True
    candidates, posteriors, allowed = step.final_layer()  # (n, k)
    entropy, undrawable = step.entropy_final, step.undrawable
    assert entropy is not None
    assert undrawable is not None
    step.entropy_final = entropy if counted else None  # for the cold stop alone
    soft_top_k = step.number("soft_top_k", decoding)
    if greedy is not None:
        soft_top_k = torch.where(greedy, 1.0, soft_top_k)
    top_k, top_p, min_p, end = (carried.settings[:, column] for column in (TOP_K, TOP_P, MIN_P, END))
    weights = mixing_weights(posteriors * allowed, soft_top_k, top_k, top_p, min_p)
    if decoding == "soft_thinking_gumbel":
        weights = weights[:, :MOST_MIXED]
        uniform = streams(step.settings[:, KEY], carried.positions, GUMBEL_STREAM, MOST_MIXED)[:, : weights.shape[1]]
        weights = gumbel_softmax(weights, uniform, step.number("gumbel_temperature", decoding))
        weights, order = weights.sort(dim=-1, descending=True, stable=True)
        candidates = candidates.gather(1, order)
    entropy = torch.where(undrawable, torch.inf, entropy)
    threshold, length = (step.number(f"soft_cold_stop_{name}", decoding) for name in ("entropy", "length"))
    low, stops = cold_stop(carried.low, entropy, threshold, length)
    end = end.long()
    stops = stops & (end >= 0) & step.logits.gather(1, end.clamp_min(0)[:, None]).isfinite().squeeze(1)
    candidates, weights = _end_of_thinking(stops, end, candidates, weights)
    given = NextInput(candidates, weights, low, torch.zeros_like(low), stops)
    explored = (~stops).to(posteriors.dtype)
    return Draw(candidates[:, 0], candidates, weights, explored, posteriors[:, 0], next_input=given)


def _end_of_thinking(stops: Tensor, end: Tensor, candidates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that stop (n,) get the token `end` (n,) alone, of weight 1, in the place of their mix."""
    first = torch.arange(candidates.shape[1], device=end.device) == 0
    candidates = torch.where(stops[:, None] & first, end[:, None], candidates)
    return candidates, torch.where(stops[:, None], first.to(weights.dtype), weights)
