"""Soft Thinking: while a sequence thinks, its next input is a mix of token embeddings instead of one of them.

Zhang et al., "Soft Thinking: Unlocking the Reasoning Potential of LLMs in Continuous Concept Space", arXiv 2505.15778.
Its Gumbel variant: Wu et al., "LLMs are Single-threaded Reasoners", arXiv 2508.03440. Both as in the first paper's
published code, which the second's authors use too. Pure functions of tensors.
"""

import torch
from torch import Tensor

TINY = 2.0**-53  # half the step of a uniform number: keeps 0 out of a logarithm


def mixing_weights(posteriors: Tensor, soft_top_k: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Weights (n, k) float64 of the most probable tokens: after top-k, top-p and min-p, `soft_top_k` of the rest.

    Each renormalises what the one before it kept. The first token always stays.

    Args:
        posteriors: (n, k) float64, descending, of a softmax over the whole vocabulary; k is at least every row's
            `soft_top_k` and `top_k`.
        soft_top_k: (n,) tokens of a mix, at most.
        top_k: (n,) 0: no limit.
        top_p, min_p: (n,) 1 and 0: no limit.
    """
    order = torch.arange(posteriors.shape[1], device=posteriors.device)
    limited = top_k > 0
    kept = torch.where(limited[:, None] & (order >= top_k[:, None]), 0.0, posteriors)
    mass = torch.where(limited, kept.sum(-1), 1.0)
    before = kept.cumsum(-1) - kept  # mass of the more probable tokens
    keep = (before < (top_p * mass)[:, None]) & (kept >= min_p[:, None] * kept[:, :1]) & (order < soft_top_k[:, None])
    kept = torch.where(keep | (order == 0), kept, 0.0)
    return kept / kept.sum(-1, keepdim=True)


def gumbel_softmax(weights: Tensor, uniform: Tensor, temperature: Tensor) -> Tensor:
    """Weights (n, k) float64 after Gumbel noise: softmax((log weights + g) / temperature); a weight of 0 stays 0.

    Args:
        uniform: (n, k) float64 in [0, 1), of which g = -log(-log u).
        temperature: (n,) above 0.
    """
    noise = -(-(uniform + TINY).log()).log()
    return ((weights.log() + noise) / temperature[:, None]).softmax(-1)


def cold_stop(low: Tensor, entropy: Tensor, threshold: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Steps in a row, this one included, of an entropy below the threshold, and which rows must stop thinking.

    Args:
        low: (n,) steps in a row so far.
        entropy: (n,) nats, of the final layer's whole distribution at the request's temperature.
        threshold: (n,) nats; 0: never stop.
        length: (n,) steps in a row after which thinking ends; 0: never.
    """
    low = torch.where((threshold > 0) & (entropy < threshold), low + 1, 0.0)
    return low, (length > 0) & (low >= length)
