"""One step of the rows that share a decoding: what a decoding (decodings/) is given and what it gives back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from led_rl.methods.properties import PROPERTIES
from led_rl.sampler.carried import CarriedRows, NextInput
from led_rl.sampler.columns import AGGREGATION, COIN, DEPTH, EXPLOIT, GREEDY, NORMED, NUMBER, ORDER, K
from led_rl.sampler.final_layer import log_p_of, top_k, with_one_candidate
from led_rl.sampler.latent_layers import Head, LatentStatistics
from led_rl.sampler.request_slots import Needs


class Read(NamedTuple):
    """Latent layers that were read.

    Either `rows` lists the rows that were read (CPU), or `rows` is None and `mask` says which of all rows are valid
    (GPU, to avoid a sync).
    """

    rows: Tensor | None  # (m,) indices of the step's rows, where they are known without a sync; None: all, m = n
    mask: Tensor | None  # (n,) bool if rows is None and not all count
    depth: Tensor  # (m,) j*: latent layers in the aggregate
    table: Tensor  # (m, depth, k) posteriors


class Draw(NamedTuple):
    """What a decoding drew."""

    tokens: Tensor | None  # (n,) int64; None: the engine draws them as usual
    candidates: Tensor  # (n, k) int64: where the policy may be above zero
    policy: Tensor  # (n, k) float64: the distribution the token was drawn from
    explored: Tensor  # (n,) probability, or 0 and 1, that the latent branch was drawn from
    confidence: Tensor  # (n,) max p_L
    read: Read | None = None
    next_input: NextInput | None = None  # what the rows' next forward pass is to change


@dataclass
class Step:
    """The rows of a step that share a decoding."""

    logits: Tensor  # (n, vocab) float32, after temperature and everything that edits the final layer's logits
    rows: Tensor  # (n,) int64 rows of the engine's batch
    settings: Tensor  # (n, columns) of columns.py
    temperature: Tensor  # (n,), 1 for greedy rows
    uniform: Tensor  # (n,) float64 in [0, 1)
    needs: Needs
    model: "LatentModel"
    read_all: bool  # read the latent layers of every row: the first batch is verified
    wants_entropy: bool  # of the final layer, over the whole vocabulary
    carried: CarriedRows | None = None  # what the rows' last draws handed on, in an engine that changes forward passes
    # Once `final_layer` was called:
    entropy_final: Tensor | None = None  # (n,) nats, if wanted
    undrawable: Tensor | None = None  # (n,) bool (final_layer.py)

    def flag(self, column: int) -> Tensor | None:
        """(n,) bool of a yes-no setting; None where every request says no."""
        return None if self.needs.shared[column] == 0 else self.settings[:, column].bool()

    def candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """The k most probable tokens of the final layer: (n, k) ids, logits, and which of them may be drawn."""
        k = min(self.needs.k, self.logits.shape[-1])
        final, candidates = top_k(self.logits, k)
        allowed = ~torch.isneginf(final)
        if not self.needs.same_k:
            allowed &= torch.arange(k, device=final.device) < self.settings[:, K, None]
        return candidates, final, allowed

    def final_layer(self) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates (n, k), their posteriors under the final layer (n, k) float64, and which of them may be drawn."""
        candidates, final, allowed = self.candidates()
        log_p_top, self.entropy_final = log_p_of(self.logits, candidates[:, :1], self.wants_entropy)
        posteriors = (final - final[:, :1] + log_p_top).double().exp()
        self.undrawable = ~log_p_top.isfinite().squeeze(1)
        if not self.logits.is_cuda and not bool(self.undrawable.any()):  # asking a device would be a sync
            return candidates, posteriors, allowed
        if self.entropy_final is not None:
            self.entropy_final = torch.where(self.undrawable, 0.0, self.entropy_final)
        greedy, first = self.greedy(), torch.zeros_like(candidates[:, 0])
        if greedy is not None:
            first = torch.where(greedy, self.logits.argmax(-1), first)
        return with_one_candidate(self.undrawable, first, candidates, posteriors, allowed)

    def number(self, name: str, decoding: str) -> Tensor:
        """(n,) float64: one of the decoding's own numbers, which `Properties.numbers` names."""
        column = NUMBER + PROPERTIES[decoding].numbers.index(name)
        return self.settings[:, column].contiguous().view(torch.float64)

    def greedy(self) -> Tensor | None:
        return self.flag(GREEDY)

    def all_coin(self) -> bool:
        return self.needs.shared[COIN] == 1

    def coin(self) -> Tensor | None:
        return self.flag(COIN)

    def exploit(self) -> Tensor | None:
        """(n,) False where a row always explores; None where every row may exploit. After `final_layer`."""
        if self.needs.shared[EXPLOIT] == 1:
            return None
        assert self.undrawable is not None
        return self.settings[:, EXPLOIT].bool() | self.undrawable

    def depth(self) -> Tensor | None:
        return None if self.needs.same_depth else self.settings[:, DEPTH]

    def aggregation(self) -> int | Tensor:
        shared = self.needs.shared[AGGREGATION]
        return self.settings[:, AGGREGATION] if shared is None else shared

    def latent_statistics(self, candidates: Tensor, subset: Tensor | None, needed: Tensor | None) -> LatentStatistics:
        """Log-normalisers and candidate logits of each row's own latent layers.

        Args:
            candidates: (n, k) of the rows asked for.
            subset: (n,) indices into this step's rows; None: all of them.
            needed: (n,) bool on the device; the result of other rows is unspecified.
        """
        settings, rows, temperature = self.settings, self.rows, self.temperature
        if subset is not None:
            rows, temperature = rows[subset], temperature[subset]
        order: Tensor | tuple[int, ...] | None = self.needs.order
        normed = None
        if order is None or self.needs.shared[NORMED] != 0:
            settings = settings if subset is None else settings[subset]
            normed = None if self.needs.shared[NORMED] == 0 else settings[:, NORMED].bool()
            order = settings[:, ORDER : ORDER + self.needs.latents] if order is None else order
        return self.model.latent_statistics(order, rows, candidates, 1.0 / temperature, normed, needed)

    def latent_count(self) -> Tensor:
        """(n,) latent layers of each row; those beyond in `latent_logits` are not its own."""
        return self.settings[:, DEPTH] - 1

    def latent_logits(self, tempered: bool = True) -> Iterator[Tensor]:
        """(n, vocab) float32 logits of each latent layer in turn, whole: slow. After temperature, or before it."""
        normed = None if self.needs.shared[NORMED] == 0 else self.settings[:, NORMED].bool()
        order = self.settings[:, ORDER : ORDER + self.needs.latents]
        for i in range(self.needs.latents):
            logits = self.model.latent_logits(order[:, i], self.rows, normed).float()
            yield logits / self.temperature[:, None] if tempered else logits

    def untempered(self) -> Tensor:
        """(n, vocab) the final layer's logits before temperature, after every edit."""
        return self.logits * self.temperature[:, None]


class LatentModel(Protocol):
    """A model that kept the latent states of the step's rows (engines/vllm_plugin/models.py)."""

    led_states: Any

    def led_head(self) -> Head: ...

    def latent_logits(self, order: Tensor, rows: Tensor, normed: Tensor | None) -> Tensor: ...

    def latent_statistics(
        self,
        order: Tensor | tuple[int, ...],
        rows: Tensor | int,
        candidates: Tensor,
        scale: Tensor,
        normed: Tensor | None,
        needed: Tensor | None,
    ) -> LatentStatistics: ...


class Decoding(Protocol):
    """A way of drawing the tokens of some rows. Pure: no state from step to step."""

    def __call__(self, step: Step) -> Draw: ...
