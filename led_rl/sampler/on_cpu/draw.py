"""A step's draw on a CPU: the compiled loops of cpu_kernels.py, and torch for what is large."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from led_rl.decoding import DECODINGS
from led_rl.sampler.latent_layers import Head
from led_rl.sampler.on_cpu import loops as cpu_kernels
from led_rl.sampler.request_slots import NORMED, Needs, Working
from led_rl.sampler.step import Draw, LatentModel, Read, Step, entropy_of, log_p_of, top_k

COMPILED = tuple(DECODINGS.index(name) for name in ("led", "top_k_control"))
LARGE_VOCABULARY = 4096
NONE, NOTHING = torch.empty(0), np.empty(0, np.float32)


def compiles(needs: Needs) -> bool:
    """Whether the compiled loops know every decoding of a batch."""
    return all(kind in COMPILED for kind in needs.decodings)


class Buffers:
    """What the loops write of up to `rows` rows; the next step writes over it. NumPy arrays, some as tensors, too."""

    def __init__(self, rows: int, k: int):
        def both(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, np.ndarray]:
            tensor = torch.empty(shape, dtype=dtype)
            return tensor, tensor.numpy()

        self.size = rows, k
        self.rows_in_torch, self.rows = both(rows, dtype=torch.int64)
        self.candidates_in_torch, self.candidates = both(rows, k, dtype=torch.int64)
        self.policy_in_torch, self.policy = both(rows, k)
        self.explored_in_torch, self.explored = both(rows)
        posterior, self.posterior = both(rows, k)
        self.confidence_in_torch = posterior[:, 0]
        self.uniform, self.values, self.log_p_top = np.empty(rows), np.empty((rows, k), np.float32), np.empty(rows)
        self.allowed, self.wanted = np.empty((rows, k), np.bool_), np.empty(rows, np.int64)


class CPUDraw:
    """Draws the rows that decode in a way of ours now, and counts them."""

    def __init__(self) -> None:
        self.buffers = Buffers(0, 1)

    def __call__(
        self,
        working: Working,
        model: LatentModel,
        logits: Tensor,
        needs: Needs,
        read_all: bool,
        wants_entropy: bool,
        wants_read: bool,
    ) -> tuple[Tensor, Draw] | None:
        """The rows (n,) that are drawn, ascending, and their draw, which is already counted; None without any.

        Both are written over by the next step, but for the tokens. `wants_read`: the draw says what it read.
        """
        size, vocab = logits.shape
        k = min(needs.k, vocab)
        if self.buffers.size != (size, k):
            self.buffers = Buffers(size, k)
        b, logits = self.buffers, logits.float()
        settings, state, sums = working.host
        kept = model.led_states
        follow = settings, state, kept.tokens.numpy(), kept.positions.numpy(), *working.slots.host_automata
        tokens_in_torch = torch.empty(size, dtype=torch.int64)  # vLLM keeps them
        drawn = tokens_in_torch.numpy(), b.candidates, b.posterior, b.allowed, b.policy, b.explored
        final = b.rows, b.uniform, b.values, b.log_p_top, *drawn, b.wanted, sums
        if vocab > LARGE_VOCABULARY:
            n, m = self._large_final(follow, final, logits, settings, k, read_all, wants_entropy)
        else:
            log_p = torch.log_softmax(logits, dim=-1)
            entropy = entropy_of(log_p).numpy() if wants_entropy else NOTHING
            n, m = cpu_kernels.draw_small_final(follow, logits.numpy(), log_p.numpy(), entropy, read_all, *final)
        if not n:
            return None
        read = None
        if m:
            wanted, depths, table = b.wanted[:m], np.empty(m, np.int64), np.empty((m, 1 + needs.latents, k))
            last = wanted, b.rows, table, settings, b.uniform, *drawn, depths, sums
            head = model.led_head()
            if needs.latents and _is_small(head, needs):
                gathered = torch.empty(m * needs.latents, kept.states.shape[-1])
                cpu_kernels.gather(kept.states.numpy(), settings, b.rows, wanted, needs.latents, gathered.numpy())
                latent = torch.mm(gathered, head.weight.t()).numpy()
                cpu_kernels.draw_small_latent(latent, head.vocab, head.logit_scale, working.temperature.numpy(), *last)
            else:
                if needs.latents:
                    self._read(table, n, torch.from_numpy(wanted), logits, working, model, needs)
                cpu_kernels.draw_latent(*last)
            if wants_read:
                rows = torch.from_numpy(wanted.copy())
                read = Read(rows, None, torch.from_numpy(depths), torch.from_numpy(table))
        parts = tokens_in_torch, b.candidates_in_torch, b.policy_in_torch, b.explored_in_torch, b.confidence_in_torch
        rows_in_torch = b.rows_in_torch
        if n < size:
            rows_in_torch, *parts = (part[:n] for part in (rows_in_torch, *parts))  # type: ignore[assignment]
        return rows_in_torch, Draw(*parts, read)

    def _large_final(
        self,
        follow: tuple[Any, ...],
        final: tuple[Any, ...],
        logits: Tensor,
        settings: np.ndarray,
        k: int,
        read_all: bool,
        wants_entropy: bool,
    ) -> tuple[int, int]:
        """As `cpu_kernels.draw_small_final`, in which a large vocabulary's part is torch's."""
        b = self.buffers
        n = cpu_kernels.follow(*follow, b.rows, b.uniform)
        if not n:
            return 0, 0
        logits = logits if n == len(logits) else logits[b.rows_in_torch[:n]]
        top, candidates = top_k(logits, k)
        picked, entropies = log_p_of(logits, candidates[:, :1], wants_entropy)
        b.values[:n], b.candidates[:n], b.log_p_top[:n] = top, candidates, picked[:, 0]
        entropy = NOTHING
        if entropies is not None:
            entropy = np.empty(len(b.rows), np.float32)
            entropy[b.rows[:n]] = entropies
        return n, cpu_kernels.draw_final(settings, entropy, read_all, n, *final)

    def _read(
        self,
        table: np.ndarray,
        n: int,
        wanted: Tensor,
        logits: Tensor,
        working: Working,
        model: LatentModel,
        needs: Needs,
    ) -> None:
        """Fills in the latent layers of the (m, depth, k) table of posteriors."""
        rows = self.buffers.rows_in_torch[:n]
        settings, temperature = working.settings[rows], working.temperature[rows]
        step = Step(logits, rows, settings, temperature, NONE, needs, model, False, False)
        log_normaliser, logits_of = step.latent_statistics(self.buffers.candidates_in_torch[wanted], wanted, None)
        table[:, 1:] = (logits_of - log_normaliser[..., None]).double().exp_().numpy()


def _is_small(head: Head, needs: Needs) -> bool:
    """Whether the latent logits of all rows are few, and plain products with the head."""
    plain = head.whole and head.bias is None and head.soft_cap is None and head.weight.dtype == torch.float32
    return plain and head.vocab <= LARGE_VOCABULARY and needs.shared[NORMED] == 0
