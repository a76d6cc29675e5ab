"""A step's draw on a CPU: the compiled loops of loops.py, and torch for what is large."""

import numpy as np
import torch
from torch import Tensor

from led_rl.sampler.backend import Asked, Batch, PartDraw
from led_rl.sampler.columns import NORMED
from led_rl.sampler.final_layer import entropy_of, log_p_of, top_k
from led_rl.sampler.latent_layers import Head
from led_rl.sampler.on_cpu import loops
from led_rl.sampler.request_slots import Needs, compiles
from led_rl.sampler.step import Draw, Read, Step
from led_rl.sampler.working_rows import Working

LARGE_VOCABULARY = 4096
NONE, NOTHING = torch.empty(0), np.empty(0, np.float32)


class Buffers:
    """Arrays for up to `rows` rows that the loops write (`out`), and those of them that leave as tensors."""

    def __init__(self, rows: int, k: int):
        def both(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, np.ndarray]:
            tensor = torch.empty(shape, dtype=dtype)
            return tensor, tensor.numpy()

        self.size = rows, k
        self.rows, rows_out = both(rows, dtype=torch.int64)
        self.candidates, candidates_out = both(rows, k, dtype=torch.int64)
        self.policy, policy_out = both(rows, k)
        self.explored, explored_out = both(rows)
        posterior, posterior_out = both(rows, k)
        self.confidence = posterior[:, 0]
        self.out = loops.Out(
            rows=rows_out,
            uniform=np.empty(rows),
            values=np.empty((rows, k), np.float32),
            log_p_top=np.empty(rows),
            tokens=np.empty(0, np.int64),  # new at each step, since vLLM keeps them
            candidates=candidates_out,
            posterior=posterior_out,
            allowed=np.empty((rows, k), np.bool_),
            policy=policy_out,
            explored=explored_out,
            wanted=np.empty(rows, np.int64),
            sums=np.empty((0, 0)),  # the batch's
        )


class CompiledDraw:
    """Draws in compiled loops."""

    def __init__(self) -> None:
        self.buffers = Buffers(0, 1)

    def takes(self, needs: Needs, logits: Tensor) -> bool:
        return logits.device.type == "cpu" and compiles(needs)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def draw(self, batch: Batch, asked: Asked) -> tuple[list[PartDraw], Tensor]:
        working = batch.slots.at(batch.slot_of_row, batch.temperature)
        part = self._draw(working, batch, asked)
        return [] if part is None else [part], torch.cat([working.known_column, working.sums], dim=1)

    def _draw(self, working: Working, batch: Batch, asked: Asked) -> PartDraw | None:
        logits, model, needs = batch.logits.float(), batch.model, batch.needs
        size, vocab = logits.shape
        k = min(needs.k, vocab)
        if self.buffers.size != (size, k):
            self.buffers = Buffers(size, k)
        b = self.buffers
        settings, state, sums = working.host
        kept = model.led_states
        followed = loops.Followed(
            settings, state, kept.tokens.numpy(), kept.positions.numpy(), *working.slots.host_automata
        )
        tokens = torch.empty(size, dtype=torch.int64)
        out = b.out._replace(tokens=tokens.numpy(), sums=sums)
        if vocab > LARGE_VOCABULARY:
            n, m = self._large_final(followed, out, logits, asked)
        else:
            log_p = torch.log_softmax(logits, dim=-1)
            entropy = entropy_of(log_p).numpy() if asked.wants_entropy else NOTHING
            n, m = loops.draw_small_final(followed, out, logits.numpy(), log_p.numpy(), entropy, asked.read_all)
        if not n:
            return None
        read = None
        if m:
            wanted, depths, table = out.wanted[:m], np.empty(m, np.int64), np.empty((m, 1 + needs.latents, k))
            head = model.led_head()
            if needs.latents and _is_small(head, needs):
                gathered = torch.empty(m * needs.latents, kept.states.shape[-1])
                loops.gather(kept.states.numpy(), settings, out, wanted, needs.latents, gathered.numpy())
                latent = torch.mm(gathered, head.weight.t()).numpy()
                temperature = working.temperature.numpy()
                loops.draw_small_latent(
                    latent, head.vocab, head.logit_scale, temperature, settings, out, wanted, table, depths
                )
            else:
                if needs.latents:
                    self._read(table, n, torch.from_numpy(wanted), logits, working, batch)
                loops.draw_latent(settings, out, wanted, table, depths)
            if asked.wants_read:
                rows = torch.from_numpy(wanted.copy())
                read = Read(rows, None, torch.from_numpy(depths), torch.from_numpy(table))
        parts = tokens, b.candidates, b.policy, b.explored, b.confidence
        drawn_rows = b.rows
        if n < size:
            drawn_rows, *parts = (part[:n] for part in (drawn_rows, *parts))  # type: ignore[assignment]
        return PartDraw(drawn_rows, None, Draw(*parts, read))

    def _large_final(self, followed: loops.Followed, out: loops.Out, logits: Tensor, asked: Asked) -> tuple[int, int]:
        """As `loops.draw_small_final`, in which torch does a large vocabulary's part."""
        n = loops.follow(followed, out)
        if not n:
            return 0, 0
        drawn = logits if n == len(logits) else logits[self.buffers.rows[:n]]
        top, candidates = top_k(drawn, out.values.shape[1])
        picked, entropies = log_p_of(drawn, candidates[:, :1], asked.wants_entropy)
        out.values[:n], out.candidates[:n], out.log_p_top[:n] = top, candidates, picked[:, 0]
        loops.take_one_candidate(followed.settings, out, logits.numpy(), n)
        entropy = NOTHING
        if entropies is not None:
            entropy = np.empty(len(out.rows), np.float32)
            entropy[out.rows[:n]] = entropies
        return n, loops.draw_final(followed.settings, out, entropy, asked.read_all, n)

    def _read(self, table: np.ndarray, n: int, wanted: Tensor, logits: Tensor, working: Working, batch: Batch) -> None:
        """Fills in the latent layers of the (m, depth, k) table of posteriors."""
        rows = self.buffers.rows[:n]
        settings, temperature = working.settings[rows], working.temperature[rows]
        step = Step(logits, rows, settings, temperature, NONE, batch.needs, batch.model, False, False)
        log_normaliser, logits_of = step.latent_statistics(self.buffers.candidates[wanted], wanted, None)
        table[:, 1:] = (logits_of - log_normaliser[..., None]).double().exp_().numpy()


def write_policy(scores: Tensor, rows: Tensor, candidates: Tensor, policy: Tensor) -> Tensor:
    """Writes the log-policies (n, k) of `rows` (n,) over (all rows, vocab) log-probabilities, in place."""
    loops.write_policy(scores.numpy(), rows.numpy(), candidates.numpy(), policy.numpy())
    return scores


def _is_small(head: Head, needs: Needs) -> bool:
    """Whether the latent logits of all rows are few, and plain products with the head."""
    plain = head.whole and head.bias is None and head.soft_cap is None and head.weight.dtype == torch.float32
    return plain and head.vocab <= LARGE_VOCABULARY and needs.shared[NORMED] == 0
