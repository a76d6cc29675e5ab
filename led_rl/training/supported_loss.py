"""Log-probabilities over the support that each token was sampled from, instead of over the whole vocabulary.

A token that can never be sampled is never pushed back: normalised over the vocabulary, the gradient of a negative
advantage moves probability out of the candidates to such tokens, step after step. Normalised over the support S,

    log pi(y | S) = z_y - log sum_{i in S} exp z_i                      z: logits / temperature

is the log-probability of what the engine really chose between ("keep sampling mask": DeepSeek-V3.2, arXiv 2512.02556,
section 3.1). It needs |S| rows of the LM head a token: no logits over the vocabulary exist for such tokens.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple

import torch
import trl.trainer.utils as trl_utils
from torch import Tensor
from trl.trainer.utils import maybe_gather_lm_head_ctx

from led_rl.sampler.support import read_record

ROWS_AT_ONCE = 4096  # rows of the LM head that one pass gathers
GAUGED = 128  # tokens of a loss whose support mass is measured


@dataclass
class Supports:
    """The supports of a batch of completions.

    Attributes:
        ids: (batch, tokens, k) int64, -1 where a support has fewer ids; all -1 for tokens drawn from the vocabulary.
        explored: (batch, tokens) float32 probability of having been drawn from latent layers; -1 for tokens drawn as
            standard decoding does, and for padding.
    """

    ids: Tensor
    explored: Tensor

    @classmethod
    def of(cls, records: Sequence[Sequence[Sequence[int]]], tokens: int, device: torch.device) -> "Supports":
        """From one record a token (led_rl/sampler/support.py), completion by completion, padded to `tokens`."""
        read = [[read_record(record) for record in completion] for completion in records]
        width = max((len(ids) for completion in read for ids, _ in completion), default=0)
        table = torch.full((len(read), tokens, max(1, width)), -1, dtype=torch.int64)
        explored = torch.full((len(read), tokens), -1.0)
        for row, completion in enumerate(read):
            if not completion:
                continue
            explored[row, : len(completion)] = torch.tensor([share for _, share in completion])
            padded = [ids + [-1] * (width - len(ids)) for ids, _ in completion]
            if width:
                table[row, : len(completion)] = torch.tensor(padded)
        return cls(table.to(device), explored.to(device))


class Head(NamedTuple):
    """How TRL's fused LM head makes logits of a product of hidden states and head."""

    temperature: float
    soft_cap: float | None
    scale: float
    dtype: torch.dtype  # of the product

    def product(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(c, k) float32 products of (c, hidden) states and the head's rows `ids`, and these rows (c, k, hidden)."""
        rows = weight[ids].to(self.dtype)
        product = torch.matmul(rows, hidden.to(self.dtype)[..., None]).squeeze(-1).float()
        return product if bias is None else product + bias[ids].float(), rows

    def logits(self, product: Tensor) -> Tensor:
        logits = product * self.scale
        if self.soft_cap is not None:
            logits = self.soft_cap * torch.tanh(logits / self.soft_cap)
        return logits / self.temperature

    def slope(self, product: Tensor) -> Tensor | float:
        """Derivative of `logits`."""
        slope = self.scale / self.temperature
        if self.soft_cap is None:
            return slope
        return slope * (1 - torch.tanh(product * self.scale / self.soft_cap) ** 2)


class SupportLogProb(torch.autograd.Function):
    """log pi(target | support) and the entropy over the support, gathered from the LM head in chunks of tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (n, hidden)
        weight: Tensor,  # (vocab, hidden)
        bias: Tensor | None,  # (vocab,)
        targets: Tensor,  # (n,) each in its support
        ids: Tensor,  # (n, k) int64, -1 beyond a support
        head: Head,
        sparse: bool,
    ) -> tuple[Tensor, Tensor]:
        """Returns (n,) float32 log-probabilities and (n,) float32 entropies in nats, the latter without a gradient.

        `sparse`: hand the head's gradient on as a sparse tensor, to be added to a dense one.
        """
        unused = ids < 0
        picked = ids.masked_fill(unused, 0)
        log_p = torch.empty(ids.shape, dtype=torch.float32, device=hidden.device)
        for part in _parts(ids):
            product, _ = head.product(hidden[part], weight, bias, picked[part])
            log_p[part] = head.logits(product).masked_fill(unused[part], -torch.inf).log_softmax(-1)
        chosen = ids == targets[:, None]
        ctx.head, ctx.sparse = head, sparse
        ctx.save_for_backward(hidden, weight, bias, picked, log_p, chosen)
        entropy = -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)
        ctx.mark_non_differentiable(entropy)
        return log_p.masked_fill(~chosen, 0.0).sum(-1), entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, picked, log_p, chosen = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device) if wants_hidden else None
        used, where = picked.unique(return_inverse=True)  # a row of the head takes the gradient of many tokens
        grad_used = hidden.new_zeros(len(used), hidden.shape[1], dtype=torch.float32) if wants_weight else None
        grad_bias_used = hidden.new_zeros(len(used), dtype=torch.float32) if wants_bias else None
        with maybe_gather_lm_head_ctx(weight, bias):
            shape = weight.shape
            for part in _parts(picked):
                product, rows = ctx.head.product(hidden[part], weight, bias, picked[part])
                # d log pi(y | S) / d z_i = 1[i = y] - pi(i | S): 0 beyond the support, where pi is 0
                g = grad[part, None].float() * (chosen[part].float() - log_p[part].exp()) * ctx.head.slope(product)
                if grad_hidden is not None:
                    grad_hidden[part] = torch.matmul(g[:, None], rows.float()).squeeze(1)
                if grad_used is not None:
                    outer = g[..., None] * hidden[part].float()[:, None]  # (c, k, hidden)
                    grad_used.index_add_(0, where[part].flatten(), outer.flatten(0, 1))
                if grad_bias_used is not None:
                    grad_bias_used.index_add_(0, where[part].flatten(), g.flatten())
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_used is None else _spread(used, grad_used.to(weight.dtype), shape, ctx.sparse),
            None if grad_bias_used is None else _spread(used, grad_bias_used.to(bias.dtype), shape[:1], ctx.sparse),
            *(None,) * 4,
        )


def _parts(ids: Tensor) -> Iterator[slice]:
    """Slices of the tokens of (n, k) ids, of which each gathers about ROWS_AT_ONCE rows of the LM head."""
    step = max(1, ROWS_AT_ONCE // ids.shape[1])
    return (slice(first, first + step) for first in range(0, len(ids), step))


def _spread(index: Tensor, values: Tensor, shape: Sequence[int], sparse: bool) -> Tensor:
    """A gradient of `shape` that is zero but for `values` at the rows `index`, ascending."""
    if sparse:
        return torch.sparse_coo_tensor(index[None], values, tuple(shape), is_coalesced=True, check_invariants=False)
    return values.new_zeros(tuple(shape)).index_copy_(0, index, values)


class SupportedHead:
    """Scores a batch's tokens over their supports, in the place where TRL's fused LM head scores tokens.

    TRL's forward finds the head, gathers it where it is sharded, and calls `apply` with the hidden states that predict
    each label. Tokens with a support take their log-probability and entropy from it, the others TRL's.

    Args:
        supports: of all sequences; TRL scores them in pieces, in order.
        gauges: whether `masses` is to be filled.
        temperature: what logits are divided by in place of the fused head's own.

    Attributes:
        masses: of up to GAUGED tokens of each piece, (n,): mass of the full policy on the token's support.
    """

    def __init__(self, supports: Supports, gauges: bool, temperature: float | None = None):
        self.supports = supports
        self.gauges = gauges
        self.temperature = temperature
        self.masses: list[Tensor] = []
        self._row = 0
        self._original: Any = None

    @contextmanager
    def scoring(self, labels: Tensor) -> Iterator[None]:
        """While open, TRL's forward scores the next piece, whose (batch, sequence) labels are -100 but for tokens."""
        batch, tokens = len(labels), self.supports.ids.shape[1]
        counted = labels[:, -tokens:] != -100  # (batch, tokens)
        self._ids = self.supports.ids[self._row : self._row + batch][counted]  # (m, k)
        self._row += batch
        row, token = counted.nonzero(as_tuple=True)
        length = labels.shape[1] - 1  # positions that predict a label
        self._positions, self._all = row * length + token + (length - tokens), batch * length
        self._original = trl_utils._ChunkedLogProbFunction
        trl_utils._ChunkedLogProbFunction = self  # type: ignore[assignment,misc]
        try:
            yield
        finally:
            trl_utils._ChunkedLogProbFunction = self._original  # type: ignore[misc]

    def apply(
        self,
        hidden: Tensor,  # (n, hidden): of all positions, or (on a GPU) of those whose labels count
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,  # (n,)
        temperature: float,
        chunk_size: int,
        soft_cap: float | None,
        scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[Tensor | None, ...]:
        everywhere = len(hidden) == self._all
        if everywhere:
            hidden, targets = hidden[self._positions], targets[self._positions]
        temperature = self.temperature or temperature
        dtype = torch.get_autocast_dtype(hidden.device.type)
        head = Head(
            temperature, soft_cap, scale, dtype if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
        )

        def over_vocabulary(rows: Tensor, wanted: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
            scored = self._original.apply(
                hidden[rows], weight, bias, targets[rows], temperature, chunk_size, soft_cap, scale, wanted
            )
            return scored[:2]

        has_support = self._ids[:, 0] >= 0
        inside, outside = has_support.nonzero().squeeze(1), (~has_support).nonzero().squeeze(1)
        log_probs = entropy = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
        if len(outside) or not len(inside):
            scored, spread = over_vocabulary(outside, outputs)
            log_probs = log_probs.index_put((outside,), scored)
            entropy = entropy if spread is None else entropy.index_put((outside,), spread)
        if len(inside):
            scored, spread = SupportLogProb.apply(
                hidden[inside], weight, bias, targets[inside], self._ids[inside], head, bool(len(outside))
            )
            log_probs, entropy = log_probs.index_put((inside,), scored), entropy.index_put((inside,), spread)
            if self.gauges:
                some = torch.linspace(0, len(inside) - 1, min(GAUGED, len(inside)), device=inside.device).long()
                with torch.no_grad():
                    full, _ = over_vocabulary(inside[some], ())
                    self.masses.append((full - scored[some]).exp())
        if everywhere:
            blank = torch.zeros(self._all, dtype=torch.float32, device=hidden.device)
            log_probs = blank.index_put((self._positions,), log_probs)
            entropy = blank.index_put((self._positions,), entropy)
        return log_probs, entropy if "entropy" in outputs else None, None, None, None


class SupportSwitch:
    """Lets models that TRL gave its fused LM head score over supports while one is set."""

    def __init__(self) -> None:
        self.head: SupportedHead | None = None

    def install(self, model: Any) -> None:
        """Wraps the forward of a model; once TRL's fused LM head is in place, before it is called."""
        fused = model.forward

        @functools.wraps(type(model).forward)
        def forward(_: Any, *args: Any, **kwargs: Any) -> Any:
            if self.head is None or not kwargs.get("fused_lm_head"):
                return fused(*args, **kwargs)
            with self.head.scoring(kwargs["labels"]):
                return fused(*args, **kwargs)

        model.forward = MethodType(forward, model)

    @contextmanager
    def over(self, supports: Supports, gauges: bool, temperature: float | None = None) -> Iterator[SupportedHead]:
        self.head = SupportedHead(supports, gauges, temperature)
        try:
            yield self.head
        finally:
            self.head = None
