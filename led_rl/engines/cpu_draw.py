"""A step's draw on a CPU: the compiled loops of cpu_kernels.py, and torch for what is large."""

import numpy as np
import torch
from torch import Tensor

from led_rl.decoding import DECODINGS
from led_rl.engines import cpu_kernels
from led_rl.engines.decode_step import Draw, LatentModel, Read, Step, entropy_of, log_p_of, top_k
from led_rl.engines.decoding_slots import NORMED, Needs, Working
from led_rl.engines.kernels import Head

COMPILED = tuple(DECODINGS.index(name) for name in ("led", "top_k_control"))
LARGE_VOCABULARY = 4096
NONE, NOTHING = torch.empty(0), np.empty(0, np.float32)


def compiles(needs: Needs) -> bool:
    """Whether the compiled loops know every decoding of a batch."""
    return all(kind in COMPILED for kind in needs.decodings)


def draw_on_cpu(
    working: Working,
    model: LatentModel,
    logits: Tensor,
    positions: Tensor,
    needs: Needs,
    read_all: bool,
    wants_entropy: bool,
) -> tuple[Tensor, Draw] | None:
    """The rows that decode in a way of ours now, (n,), and their draw, which is already counted; None without any."""
    size = len(logits)
    rows, uniform = np.empty(size, dtype=np.int64), np.empty(size)
    tokens_in = model.led_states.tokens[:size].numpy()
    settings, state, sums = working.host
    n = cpu_kernels.follow(settings, state, tokens_in, positions.numpy(), *working.slots.host_automata, rows, uniform)
    if not n:
        return None
    rows, uniform = rows[:n], uniform[:n]
    rows_in_torch = torch.from_numpy(rows)
    logits = logits.float()
    vocab = logits.shape[-1]
    k = min(needs.k, vocab)
    if vocab > LARGE_VOCABULARY:
        logits = logits if n == size else logits[rows_in_torch]
        top, candidates = top_k(logits, k)
        picked, entropies = log_p_of(logits, candidates[:, :1], wants_entropy)
        values, ids, log_p_top = top.numpy(), candidates.numpy(), picked.numpy()[:, 0]
        entropy_final = NOTHING if entropies is None else entropies.numpy()
    else:
        values, ids, log_p_top = np.empty((n, k), np.float32), np.empty((n, k), np.int64), np.empty(n, np.float32)
        log_p = torch.log_softmax(logits, dim=-1)
        cpu_kernels.top_k(logits.numpy(), log_p.numpy(), rows, values, ids, log_p_top)
        candidates = torch.from_numpy(ids)
        entropy_final = entropy_of(log_p).numpy()[rows] if wants_entropy else NOTHING
    posterior, policy, explored = np.empty((n, k)), np.empty((n, k)), np.empty(n)
    allowed, tokens, wanted = np.empty((n, k), np.bool_), np.empty(n, np.int64), np.empty(n, np.int64)
    drawn = tokens, ids, posterior, allowed, policy, explored
    m = cpu_kernels.draw_final(
        rows, values, log_p_top, entropy_final, settings, read_all, uniform, *drawn, wanted, sums
    )
    read = None
    if m:
        wanted, depths, table = wanted[:m], np.empty(m, np.int64), np.empty((m, 1 + needs.latents, k))
        subset = torch.from_numpy(wanted)
        head = model.led_head()
        if needs.latents and _is_small(head, needs):
            states = model.led_states.states
            gathered = torch.empty(m * needs.latents, states.shape[-1])
            cpu_kernels.gather(states.numpy(), settings, rows, wanted, needs.latents, gathered.numpy())
            latent, scale = torch.mm(gathered, head.weight.t()).numpy(), head.logit_scale
            temperature = working.temperature.numpy()
            cpu_kernels.draw_small_latent(
                latent, head.vocab, scale, temperature, wanted, rows, table, settings, uniform, *drawn, depths, sums
            )
        else:
            if needs.latents:
                step = Step(
                    logits, rows_in_torch, working.settings, working.temperature, NONE, needs, model, read_all, False
                )
                if n < size:
                    step.settings, step.temperature = step.settings[rows_in_torch], step.temperature[rows_in_torch]
                log_normaliser, logits_of = step.latent_statistics(candidates[subset], subset, None)
                table[:, 1:] = (logits_of - log_normaliser[..., None]).double().exp_().numpy()
            cpu_kernels.draw_latent(wanted, rows, table, settings, uniform, *drawn, depths, sums)
        read = Read(subset, None, torch.from_numpy(depths), torch.from_numpy(table))
    return rows_in_torch, Draw(
        torch.from_numpy(tokens),
        candidates,
        torch.from_numpy(policy),
        torch.from_numpy(explored),
        torch.from_numpy(posterior[:, 0]),
        read,
    )


def _is_small(head: Head, needs: Needs) -> bool:
    """Whether the latent logits of all rows are few, and plain products with the head."""
    plain = head.whole and head.bias is None and head.soft_cap is None and head.weight.dtype == torch.float32
    return plain and head.vocab <= LARGE_VOCABULARY and needs.shared[NORMED] == 0
