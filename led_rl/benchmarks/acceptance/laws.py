"""Statistical laws that draws must keep, whatever the machine."""

import math
from collections.abc import Sequence

import torch
from scipy.stats import chi2
from torch import Tensor


def chi_square_p(tokens: Tensor, probabilities: Tensor) -> float:
    """p-value of Pearson's chi-square test; cells expected below 5 are pooled. 0 if a token of probability 0 was drawn.

    Args:
        tokens: (n,) drawn.
        probabilities: (vocab,) that they should follow.
    """
    expected = probabilities.double() * len(tokens)
    observed = torch.bincount(tokens, minlength=len(probabilities)).double()
    if observed[probabilities == 0].sum() > 0:
        return 0.0
    small = expected < 5
    expected = torch.cat([expected[~small], expected[small].sum()[None]])
    observed = torch.cat([observed[~small], observed[small].sum()[None]])
    keep = expected > 0
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum().item()
    return float(chi2.sf(statistic, int(keep.sum()) - 1))


def binomial_z(count: int, probabilities: Sequence[float]) -> float:
    """How many standard deviations `count` is from what independent events of these probabilities make."""
    variance = sum(p * (1 - p) for p in probabilities)
    return (count - sum(probabilities)) / math.sqrt(max(variance, 1e-12))
