"""DoLa (Decoding by Contrasting Layers) as pure functions of logits.

Y.-S. Chuang et al., "DoLa: Decoding by Contrasting Layers Improves Factuality in Large Language Models", arXiv
2309.03883. With W the LM head, h_l the residual stream after l of L layers and T the temperature:

    p_L = softmax(z_L), z_L the model's own logits;  p_l = softmax(W h_l), l in a bucket of premature layers
    M   = argmax_l JSD(p_L, p_l)                     the premature layer of this row, and of this step
    V   = {x: p_L(x) >= relative_top * max p_L}      the candidates
    policy(x) = softmax_V((log p_L(x) - log p_M(x)) / T)

The published code and transformers' apply no final norm to h_l, and neither does this, unless a request asks for it;
and the temperature acts on the contrast alone. They differ from the paper in one thing: what they call the divergence
is (KL(m, p_L) + KL(m, p_l)) / 2 with m the mean of both, and they take its argmax over the mean of a batch. This is the
paper's: (KL(p_L, m) + KL(p_l, m)) / 2, each row for itself.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Contrast(NamedTuple):
    """What DoLa draws from."""

    policy: Tensor  # (rows, k) float64
    layer: Tensor  # (rows,) int64: which of the premature layers is the one contrasted with
    posteriors: Tensor  # (rows, 1 + layers, k) of the final layer and of each premature one, at temperature 1


def dola(
    final: Tensor,
    premature: Iterable[Tensor],
    candidates: Tensor,
    allowed: Tensor,
    *,
    relative_top: float | Tensor = 0.1,
    temperature: float | Tensor = 1.0,
    count: Tensor | None = None,
    greedy: Tensor | None = None,
) -> Contrast:
    """DoLa's next-token distribution over the candidates. Layers pass one at a time: no table of them is made.

    Args:
        final: (rows, vocab) logits of the final layer at temperature 1; -inf where a token may not be drawn.
        premature: (rows, vocab) logits of each premature layer at temperature 1, ascending.
        candidates: (rows, k) the final layer's most probable tokens, most probable first.
        allowed: (rows, k) False where a candidate may not be drawn.
        relative_top: scalar or (rows,).
        temperature: scalar or (rows,), above 0.
        count: (rows,) premature layers of each row where rows differ, at least 1; the default is all of them.
        greedy: (rows,) True where a row takes the argmax.

    A premature layer whose logits are not finite is never chosen; where all are so, nothing is subtracted. Of equal
    divergences the first layer wins.
    """
    masked = torch.isneginf(final)
    log_p = torch.log_softmax(final, dim=-1)
    own = log_p.gather(-1, candidates)  # (rows, k)
    best = torch.full_like(own[:, 0], -1.0)  # divergences are at least 0
    layer = torch.zeros_like(candidates[:, 0])
    contrasted, posteriors = torch.zeros_like(own), [own.exp()]
    for index, logits in enumerate(premature):
        log_q = torch.log_softmax(logits.masked_fill(masked, -torch.inf), dim=-1)
        theirs = log_q.gather(-1, candidates)
        divergence = jensen_shannon(log_p, log_q).nan_to_num(-1.0)
        if count is not None:
            divergence = torch.where(index < count, divergence, -1.0)
        higher = divergence > best
        best, layer = torch.where(higher, divergence, best), torch.where(higher, index, layer)
        contrasted = torch.where(higher[:, None], theirs, contrasted)
        posteriors.append(theirs.exp())
    floor = own[:, :1] + _column(relative_top, own).log()  # rounding must not lose the most probable token itself
    kept = allowed & ((own >= floor) | (torch.arange(own.shape[1], device=own.device) == 0))
    contrast = torch.where(kept, own.double() - contrasted.double(), -torch.inf)
    policy = torch.softmax(contrast / _column(temperature, contrast), dim=-1)
    if greedy is not None:
        only = torch.zeros_like(policy).scatter_(-1, contrast.argmax(-1, keepdim=True), 1.0)
        policy = torch.where(greedy[:, None], only, policy)
    return Contrast(policy, layer, torch.stack(posteriors, dim=1))


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(rows,) nats, from (rows, vocab) log-probabilities, which may both be -inf in the same places."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    lowest = torch.finfo(log_p.dtype).min
    halves = [log.exp() * (log.clamp_min(lowest) - log_m.clamp_min(lowest)) for log in (log_p, log_q)]
    return (halves[0] + halves[1]).sum(-1) / 2


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """A scalar or (rows,) as (rows or 1, 1) of the dtype and on the device of `like`."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1)
