"""The final layer's part of a draw: its most probable tokens, their log-probabilities, its entropy.

A row is undrawable if its logits are no distribution: every token is masked (-inf), or one of them is NaN or +inf.
vLLM's own sampler then draws token 0, and at temperature 0 the first token of the largest logit, where NaN is largest.
LED draws the same (the kernels of a GPU take NaN and +inf for equally large): that token is the only candidate, of
probability 1.
"""

import torch
from torch import Tensor

ROWS_AT_ONCE = 1 << 18  # logits: a CPU core's cache holds what one pass leaves for the next


def log_p_of(logits: Tensor, tokens: Tensor, wants_entropy: bool) -> tuple[Tensor, Tensor | None]:
    """log softmax of (n, vocab) logits at (n, 1) tokens, (n, 1), and if wanted the softmax's entropy in nats, (n,).

    `log_softmax` is one fused pass where `logsumexp` takes six; on CPU its output never leaves the cache.
    """
    n, vocab = logits.shape
    step = n if logits.is_cuda else max(1, ROWS_AT_ONCE // vocab)
    picked, entropies = [], []
    for first in range(0, n, step):
        log_p = torch.log_softmax(logits[first : first + step], dim=-1)
        picked.append(log_p.gather(1, tokens[first : first + step]))
        if wants_entropy:
            entropies.append(entropy_of(log_p))
    whole = picked[0] if len(picked) == 1 else torch.cat(picked)
    return whole, torch.cat(entropies) if wants_entropy else None


def entropy_of(log_p: Tensor) -> Tensor:
    """(n,) nats, from (n, vocab) log-probabilities, of which some may be -inf."""
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)


def with_one_candidate(
    undrawable: Tensor, first: Tensor, candidates: Tensor, posteriors: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates, posteriors and which may be drawn (n, k): `undrawable` rows (n,) get `first` (n,) as the only one."""
    column, here = torch.arange(candidates.shape[1], device=first.device), undrawable[:, None]
    only = (column == 0).expand_as(allowed)
    ids = torch.where(column == first[:, None], 0, column)  # distinct: 0 takes the place of `first`
    ids = torch.where(only, first[:, None], ids)
    return (
        torch.where(here, ids, candidates),
        torch.where(here, only.to(posteriors.dtype), posteriors),
        torch.where(here, only, allowed),
    )


BLOCK = 64


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`logits.topk(k)`, faster over a large vocabulary: the k largest lie in the k blocks of largest maximum."""
    rows, vocab = logits.shape
    blocks = vocab // BLOCK
    if blocks < 8 * k or not logits.is_contiguous():
        values, index = logits.topk(k, dim=-1)
        return values, index
    main = logits[:, : blocks * BLOCK].view(rows, blocks, BLOCK)
    best = main.amax(-1).topk(k, dim=-1).indices  # (rows, k)
    ids = (best[:, :, None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)  # (rows, k * BLOCK)
    if blocks * BLOCK < vocab:
        tail = torch.arange(blocks * BLOCK, vocab, device=logits.device).expand(rows, -1)
        ids = torch.cat([ids, tail], dim=1)
    values, index = logits.gather(1, ids).topk(k, dim=-1)
    return values, ids.gather(1, index)
