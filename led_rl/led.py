"""Latent Exploration Decoding (LED) as pure functions of logits.

W. Tan et al., "Restoring Exploration after Post-Training: Latent Exploration Decoding for Large Reasoning Models",
arXiv 2602.01698. With L layers, h_l the residual stream after l layers, W the LM head, N the final norm and T the
temperature:

    p_L  = softmax(W N(h_L) / T),  p_l = softmax(W h_l / T)   over the whole vocabulary, l = L-1 ... L-d+1
    C    = the k most probable tokens of p_L                  LED never leaves these candidates
    P[j] = max(p_{L-j}(C), eps)                               j = 0 ... d-1
    A[j] = normalise(P[0] + ... + P[j])                       cumulative sum from the final layer down
    q    = A[j*],  j* = argmax_j H(A[j])                      "explore"; the first maximum wins
    b    = normalise(P[0])                                    "exploit"
    mu   = conf * b + (1 - conf) * q,  conf = max p_L         the behaviour policy

That is the aggregation `cumulative_sum`. For ablations: `mean_all` takes q = A[d-1]; `max_entropy_layer` A[j] =
normalise(P[j]); `product` A[j] = normalise(P[0] * ... * P[j]).

Nothing here knows an engine; the engines compute the same quantities from the same functions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from led_rl.decoding import AGGREGATIONS

EPS = 1e-6
TIE = 1e-12  # nats


class LEDDistribution(NamedTuple):
    """One next-token distribution per row. Columns of the last axis belong to `candidates`."""

    candidates: Tensor  # (rows, k) int64, token ids, most probable first
    exploit: Tensor  # (rows, k) b: the final layer on the candidates
    explore: Tensor  # (rows, k) q: the latent aggregate of largest entropy
    confidence: Tensor  # (rows,) max of the final layer's posterior over the whole vocabulary
    depth: Tensor  # (rows,) int64, j*: how many latent layers the aggregate includes (0: the final layer alone)
    mu: Tensor  # (rows, k) the behaviour policy: what the token is drawn from


def led_distribution(
    layer_logits: Tensor,
    k: int = 8,
    temperature: float | Tensor = 1.0,
    eps: float = EPS,
    exploit: bool = True,
    aggregation: str = AGGREGATIONS[0],
) -> LEDDistribution:
    """LED's next-token distribution from the logits of all its layers.

    Args:
        layer_logits: (rows, depth, vocab), final layer first, before temperature; fp16, bf16, fp32 or fp64. Tokens
            whose final-layer logit is -inf (penalties, grammar) are never drawn.
        k: number of candidates; a k above the vocabulary size means the whole vocabulary, as top-k does elsewhere.
        temperature: scalar, or (rows,). 0 is greedy: posteriors at temperature 1, then each branch takes its argmax;
            the coin between the branches stays.
        eps: floor of a candidate's probability in every layer.
        exploit: False draws from `explore` alone (the paper's ablation).
        aggregation: one of AGGREGATIONS.

    Raises:
        ValueError: a wrong shape, k < 1, or a negative temperature.
    """
    if layer_logits.dim() != 3 or layer_logits.shape[1] < 1:
        raise ValueError(f"layer_logits must be (rows, depth >= 1, vocab), got shape {tuple(layer_logits.shape)}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    rows, _, vocab = layer_logits.shape
    layer_logits = layer_logits.to(torch.promote_types(layer_logits.dtype, torch.float32))
    temperature = row_temperature(temperature, rows, layer_logits)
    greedy = temperature == 0
    layer_logits = layer_logits / torch.where(greedy, 1.0, temperature)[:, None, None]  # (rows, depth, vocab)

    final_logits, candidates = layer_logits[:, 0].topk(min(k, vocab), dim=-1)  # (rows, k)
    allowed = ~torch.isneginf(final_logits)
    index = candidates[:, None].expand(-1, layer_logits.shape[1], -1)
    log_normaliser = torch.logsumexp(layer_logits, dim=-1, keepdim=True)  # (rows, depth, 1)
    posteriors = (layer_logits.gather(-1, index) - log_normaliser).exp()  # (rows, depth, k)
    return combine(candidates, posteriors, allowed, greedy=greedy, exploit=exploit, aggregation=aggregation, eps=eps)


def row_temperature(temperature: float | Tensor, rows: int, like: Tensor) -> Tensor:
    """Temperature as (rows,) in the dtype and on the device of `like`."""
    if not isinstance(temperature, Tensor):
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be finite and >= 0, got {temperature}")
        return like.new_full((rows,), temperature)
    if temperature.shape not in ((), (1,), (rows,)):
        raise ValueError(f"temperature must be a scalar or ({rows},), got shape {tuple(temperature.shape)}")
    if not bool(((temperature >= 0) & temperature.isfinite()).all()):
        raise ValueError(f"temperature must be finite and >= 0, got {temperature.tolist()}")
    return temperature.to(like).expand(rows)


def combine(
    candidates: Tensor,
    posteriors: Tensor,
    allowed: Tensor,
    *,
    depth: Tensor | None = None,
    greedy: Tensor | None = None,
    exploit: bool | Tensor = True,
    aggregation: str | Tensor = AGGREGATIONS[0],
    eps: float = EPS,
) -> LEDDistribution:
    """LED from the candidates' posteriors in each layer: the part of the method that does not see the vocabulary.

    Args:
        candidates: (rows, k) token ids, most probable first.
        posteriors: (rows, depth, k) probabilities over the whole vocabulary at the candidates, final layer first.
        allowed: (rows, k) False where a candidate may not be drawn (masked, or beyond the row's own k).
        depth: (rows,) layers to use in each row where rows differ; the default is all of them.
        greedy: (rows,) True where a row takes each branch's argmax.
        exploit: False, or False in a (rows,) tensor, draws from `explore` alone.
        aggregation: one of AGGREGATIONS, or a (rows,) tensor of indices into it.

    Sums run in float64: they are tiny (rows x depth x k).
    """
    dtype = posteriors.dtype
    b = exploit_branch(posteriors[:, 0], allowed, greedy=greedy, eps=eps)
    q, chosen = explore_branch(posteriors, allowed, depth=depth, greedy=greedy, aggregation=aggregation, eps=eps)
    confidence = posteriors[:, 0, 0].double()  # the first candidate is the final layer's most probable token
    weight = confidence if isinstance(exploit, bool) else torch.where(exploit, confidence, 0.0)
    weight = (weight if exploit is not False else torch.zeros_like(weight))[:, None]
    mu = weight * b + (1 - weight) * q
    return LEDDistribution(
        candidates, b.to(dtype), q.to(dtype), confidence.to(dtype), chosen, (mu / mu.sum(-1, keepdim=True)).to(dtype)
    )


def exploit_branch(posterior: Tensor, allowed: Tensor, *, greedy: Tensor | None = None, eps: float = EPS) -> Tensor:
    """b, (rows, k) float64: the final layer's (rows, k) posterior on the candidates, renormalised."""
    b = posterior.double().clamp_min(eps) * allowed
    b = b / b.sum(-1, keepdim=True)
    return b if greedy is None else torch.where(greedy[:, None], _one_hot_argmax(b), b)


def explore_branch(
    posteriors: Tensor,
    allowed: Tensor,
    *,
    depth: Tensor | None = None,
    greedy: Tensor | None = None,
    aggregation: str | Tensor = AGGREGATIONS[0],
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """q, (rows, k) float64, and j*, (rows,): the aggregate of largest entropy. Arguments as in `combine`.

    Entropies that differ by less than TIE are a tie, and the first wins: layers that agree exactly would otherwise be
    told apart by rounding. A latent layer that overflowed has posteriors of NaN: they count as 0.
    """
    floored = posteriors.double().nan_to_num(0.0).clamp_min(eps) * allowed[:, None]  # (rows, depth, k)
    takes_all: bool | Tensor
    if isinstance(aggregation, str):
        aggregates, takes_all = _aggregates(floored, aggregation), aggregation == "mean_all"
    else:
        kinds = torch.stack([_aggregates(floored, name) for name in AGGREGATIONS])  # (kinds, rows, depth, k)
        aggregates = kinds[aggregation, torch.arange(len(floored), device=floored.device)]
        takes_all = aggregation == AGGREGATIONS.index("mean_all")
    entropies = entropy(aggregates)  # (rows, depth)
    if depth is not None:
        unused = torch.arange(entropies.shape[1], device=entropies.device) >= depth[:, None]
        entropies = entropies.masked_fill(unused, -1.0)
    chosen = (entropies >= entropies.amax(1, keepdim=True) - TIE).int().argmax(dim=1)  # (rows,) first maximum
    if takes_all is not False:
        last = torch.full_like(chosen, entropies.shape[1] - 1) if depth is None else depth - 1
        chosen = last if takes_all is True else torch.where(takes_all, last, chosen)
    q = aggregates.gather(1, chosen[:, None, None].expand(-1, 1, aggregates.shape[-1])).squeeze(1)
    return (q if greedy is None else torch.where(greedy[:, None], _one_hot_argmax(q), q)), chosen


def _aggregates(floored: Tensor, aggregation: str) -> Tensor:
    """(rows, depth, k) -> A, (rows, depth, k): entry j aggregates the layers from the final one down to j."""
    if aggregation == "max_entropy_layer":
        aggregates = floored
    elif aggregation == "product":
        logs = floored.log().cumsum(dim=1)  # -inf stays where a candidate is not allowed
        aggregates = (logs - logs.amax(-1, keepdim=True)).exp()
    else:
        aggregates = floored.cumsum(dim=1)
    return aggregates / aggregates.sum(-1, keepdim=True)


def toss_coin(uniform: Tensor, confidence: Tensor, exploit: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Splits one uniform number into the coin and a fresh uniform number for the draw within the branch.

    Args:
        uniform: (rows,) float64 in [0, 1), a multiple of 2**-52.
        confidence: (rows,) probability of the exploit branch.
        exploit: (rows,) False where a row always explores.

    Returns:
        (rows,) bool, True to explore, and (rows,) float64 in [0, 1), independent of it.
    """
    p_explore = 1 - confidence.double()
    if exploit is not None:
        p_explore = torch.where(exploit, p_explore, 1.0)
    explore = uniform < p_explore
    rest = torch.where(explore, uniform / p_explore, (uniform - p_explore) / (1 - p_explore))
    return explore, rest.clamp(0, 1 - 2**-52)


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """(rows,) index drawn from each row of (rows, k) float64 `probabilities` (need not sum to one) by its uniform.

    An index of probability 0 is never drawn: uniform <= 1 - 2**-52, so its product with a sum stays below the sum.
    """
    cdf = probabilities.cumsum(-1)
    return torch.searchsorted(cdf, (uniform * cdf[:, -1])[:, None], right=True).squeeze(1)


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy in nats over the last axis; 0 log 0 = 0."""
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)


def _one_hot_argmax(probabilities: Tensor) -> Tensor:
    return torch.zeros_like(probabilities).scatter_(-1, probabilities.argmax(-1, keepdim=True), 1.0)
