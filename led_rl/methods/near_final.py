"""The entropy-guided choice of a near-final layer ("Confident Decoding") as a pure function of logits.

X. Zhang et al., "Deeper is Not Always Better: Mitigating the Alignment Tax via Confident Layer Decoding", arXiv
2606.21906; in vLLM the proposal of https://github.com/vllm-project/vllm/issues/48080. With W the LM head, N the final
norm, h_l the residual stream after l of L layers, and a window of M layers below the final one:

    z_l = W N(h_l),  H_l = entropy of softmax(z_l)         l = L, L-1 ... L-M; z_L are the model's own logits
    V   = the first l, from L down, with H_{l-1} >= H_l    "conservative backward search": the entropy valley that is
                                                           nearest to the final layer; L-M where H falls all the way
    policy = softmax(z_V / T), restricted to its k most probable tokens
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

TIE = 1e-6  # nats by which the entropy must fall: layers that agree exactly would else be told apart by rounding


class NearFinal(NamedTuple):
    """What is drawn from."""

    candidates: Tensor  # (rows, k) int64, the chosen layer's most probable tokens, most probable first
    policy: Tensor  # (rows, k) float64
    back: Tensor  # (rows,) int64: how many layers below the final one the chosen layer lies
    tables: Tensor  # (rows, 2, k) posteriors of the final layer and the one below, at the former's most probable tokens


def near_final(
    final: Tensor,
    latent: Iterable[Tensor],
    k: int,
    *,
    own_k: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    count: Tensor | None = None,
    greedy: Tensor | None = None,
) -> NearFinal:
    """The next-token distribution of the chosen layer. Layers pass one at a time: no table of them is made.

    Args:
        final: (rows, vocab) logits of the final layer at temperature 1; -inf where a token may not be drawn.
        latent: (rows, vocab) logits of the layers below it, the nearest first, after the final norm, at temperature 1.
        k: candidates.
        own_k: (rows,) candidates of each row where rows differ, at most k.
        temperature: scalar or (rows,), above 0.
        count: (rows,) layers below the final one of each row where rows differ.
        greedy: (rows,) True where a row takes the argmax.

    The search ends before a layer whose logits are not finite. On a CPU it ends where every row has found its layer.
    """
    masked = torch.isneginf(final)
    lowest = entropy(final)
    values, candidates = final.topk(k, dim=-1)
    top, tables = candidates, [torch.softmax(final, dim=-1).gather(-1, candidates)]
    back = torch.zeros_like(candidates[:, 0])
    going = torch.ones_like(back, dtype=torch.bool)
    for index, logits in enumerate(latent, start=1):
        logits = logits.masked_fill(masked, -torch.inf)
        here = entropy(logits)
        if index == 1:
            tables.append(torch.softmax(logits, dim=-1).gather(-1, top))
        going &= here < lowest - TIE  # False for NaN
        if count is not None:
            going &= index <= count
        if not going.is_cuda and not bool(going.any()):  # asking a device would wait for it
            break
        theirs, ids = logits.topk(k, dim=-1)
        lowest, back = torch.where(going, here, lowest), torch.where(going, index, back)
        values = torch.where(going[:, None], theirs, values)
        candidates = torch.where(going[:, None], ids, candidates)
    if own_k is not None:
        values = values.masked_fill(torch.arange(k, device=values.device) >= own_k[:, None], -torch.inf)
    scale = torch.as_tensor(temperature, dtype=torch.float64, device=final.device).reshape(-1, 1)
    policy = torch.softmax(values.double() / scale, dim=-1)
    if greedy is not None:
        policy = torch.where(greedy[:, None], (torch.arange(k, device=values.device) == 0).double(), policy)
    return NearFinal(candidates, policy, back, torch.stack(tables, dim=1))


def entropy(logits: Tensor) -> Tensor:
    """(rows,) nats, of the softmax of (rows, vocab) logits, of which some may be -inf."""
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)
