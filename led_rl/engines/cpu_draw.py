"""A step's draw on a CPU: the compiled loops of cpu_kernels.py, and torch for what is large."""

import numpy as np
import torch
from torch import Tensor

from led_rl.decoding import DECODINGS
from led_rl.engines import cpu_kernels
from led_rl.engines.decode_step import Draw, LatentModel, Read, Step, log_p_of, top_k
from led_rl.engines.decoding_slots import NORMED, Needs, Working
from led_rl.engines.kernels import Head

COMPILED = tuple(DECODINGS.index(name) for name in ("led", "top_k_control"))
LARGE_VOCABULARY = 4096
NONE = torch.empty(0)


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
    if n < size:
        logits = logits[rows_in_torch]
    logits = logits.float()

    k = min(needs.k, logits.shape[-1])
    if logits.shape[-1] > LARGE_VOCABULARY:
        values, candidates = top_k(logits, k)
    else:
        values, candidates = torch.empty(n, k), torch.empty(n, k, dtype=torch.int64)
        cpu_kernels.top_k(logits.numpy(), values.numpy(), candidates.numpy())
    log_p_top, entropy_final = log_p_of(logits, candidates[:, :1], wants_entropy)
    posterior, policy, explored = np.empty((n, k)), np.empty((n, k)), np.empty(n)
    allowed, tokens, wanted = np.empty((n, k), dtype=np.bool_), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    ids = candidates.numpy()
    m = cpu_kernels.draw_final(
        rows,
        values.numpy(),
        log_p_top.numpy(),
        np.empty(0, dtype=np.float32) if entropy_final is None else entropy_final.numpy(),
        settings,
        read_all,
        uniform,
        tokens,
        ids,
        posterior,
        allowed,
        policy,
        explored,
        wanted,
        sums,
    )
    read = None
    if m:
        wanted = wanted[:m]
        subset = torch.from_numpy(wanted)
        table = np.empty((m, 1 + needs.latents, k))
        if needs.latents and _is_small(model, needs):
            states, head = model.led_states.states, model.led_head()
            gathered = torch.empty(m * needs.latents, states.shape[-1])
            cpu_kernels.gather(states.numpy(), settings, rows, wanted, needs.latents, gathered.numpy())
            latent = torch.mm(gathered, head.weight[: head.vocab].T).numpy()
            temperature = working.temperature.numpy()
            cpu_kernels.latent_posteriors(latent, head.logit_scale, ids, rows, wanted, temperature, table)
        elif needs.latents:
            step = Step(
                logits, rows_in_torch, working.settings, working.temperature, NONE, needs, model, read_all, False
            )
            if n < size:
                step.settings, step.temperature = working.settings[rows_in_torch], working.temperature[rows_in_torch]
            log_normaliser, logits_of = step.latent_statistics(candidates[subset], subset, None)
            table[:, 1:] = (logits_of - log_normaliser[..., None]).double().exp_().numpy()
        depths = np.empty(m, dtype=np.int64)
        cpu_kernels.draw_latent(
            wanted, rows, table, settings, uniform, tokens, ids, posterior, allowed, policy, explored, depths, sums
        )
        read = Read(subset, None, torch.from_numpy(depths), torch.from_numpy(table))
    return rows_in_torch, Draw(
        torch.from_numpy(tokens),
        candidates,
        torch.from_numpy(policy),
        torch.from_numpy(explored),
        torch.from_numpy(posterior[:, 0]),
        read,
    )


def _is_small(model: LatentModel, needs: Needs) -> bool:
    """Whether the latent logits of all rows are few, and plain products with the head."""
    head: Head = model.led_head()
    plain = head.whole and head.bias is None and head.soft_cap is None and head.weight.dtype == torch.float32
    return plain and head.vocab <= LARGE_VOCABULARY and needs.shared[NORMED] == 0
