"""Importance-sampling correction of the loss, and what it looked like by class of token.

The engine draws a token from mu, the loss differentiates pi. With `vllm_importance_sampling_correction`, each token's
loss is weighed by the ratio pi(y) / mu(y), both over the token's support (`train_support: sampled`), so that its mean
under mu is 1 whatever the support's mass. `vllm_importance_sampling_mode` says what becomes of large ratios:
`token_truncate` caps them, `token_mask` drops their tokens. What is corrected is the choice of each token given its
prefix; that the prefixes themselves were drawn from mu is not (their ratio is the product over all earlier tokens,
which vanishes over a long completion).
"""

from collections.abc import Callable

import torch
from torch import Tensor

CLASSES = ("explored", "exploited", "answer")


def token_classes(explored: Tensor, mask: Tensor) -> Tensor:
    """(3, batch, tokens) float weights of each completion token in each of CLASSES; they sum to `mask`.

    Args:
        explored: (batch, tokens) probability of having been drawn from latent layers, -1 for standard rows.
        mask: (batch, tokens) 1 for tokens that the loss counts.
    """
    led = (explored >= 0) * mask
    share = explored.clamp(0, 1)
    return torch.stack([led * share, led * (1 - share), mask - led])


def ratio_statistics(log_ratio: Tensor, weights: Tensor, clip_max: float | None, reduce: Callable) -> dict[str, float]:
    """How the importance ratios spread before truncation, by class of token, over all processes.

    Args:
        log_ratio: (batch, tokens) log pi - log mu.
        weights: (classes, batch, tokens) of CLASSES.
        clip_max: the ratio above which the correction truncates or drops; None: never.
        reduce: (tensor, "sum" or "max") -> the tensor reduced over all processes.

    Returns:
        `<class>/ratio_mean`, `ratio_max`, `effective_sample_share` (sum w)^2 / (n sum w^2), Kish 1965, 1 if all ratios
        are equal, and `clipped_share`; classes without tokens are left out.
    """
    known = torch.isfinite(log_ratio)
    ratio = torch.where(known, log_ratio, 0.0).double().exp()
    weights = weights.double() * known
    clipped = torch.zeros_like(ratio) if clip_max is None else (ratio > clip_max).double()
    sums = torch.stack([(weights * each).sum((1, 2)) for each in (torch.ones_like(ratio), ratio, ratio**2, clipped)])
    most = torch.where(weights > 0, ratio, 0.0).amax((1, 2))
    count, total, squares, over = reduce(sums.float(), "sum").double()
    most = reduce(most.float(), "max")
    result = {}
    for i, name in enumerate(CLASSES):
        if count[i] > 0:
            result[f"{name}/ratio_mean"] = float(total[i] / count[i])
            result[f"{name}/ratio_max"] = float(most[i])
            result[f"{name}/effective_sample_share"] = float(total[i] ** 2 / (count[i] * squares[i]))
            result[f"{name}/clipped_share"] = float(over[i] / count[i])
    return result


def finite_or_none(logprobs: list[list[float | None]]) -> list[list[float | None]]:
    """Log-probabilities whose -inf, inf and NaN are None, which TRL corrects with a ratio of 1."""
    return [[p if p is not None and abs(p) < float("inf") else None for p in completion] for completion in logprobs]
