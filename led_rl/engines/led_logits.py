"""LED as a rewrite of the logits from which the engine draws: log mu on the candidates, -inf elsewhere.

The engine's own sampler then draws from mu, so seeds, tensor parallelism and `processed_logprobs` (log mu) come along.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from led_rl.engines.decoding_slots import DEPTH, EXPLOIT, KNOWN, LED, NORMED, ORDER, DecodingSlots, K
from led_rl.engines.vllm_models import SampledRows
from led_rl.led import LEDDistribution, combine, entropy


class LEDStatistics:
    """Sums over the LED rows sampled so far, kept on the device; read with `totals`."""

    NAMES = ("rows", "explored", "confidence", "entropy_mu", "entropy_final")

    def __init__(self, depths: int, device: torch.device):
        self.sums = torch.zeros(len(self.NAMES), dtype=torch.float64, device=device)
        self.depths = torch.zeros(depths, dtype=torch.float64, device=device)

    def add(self, rows: Tensor, distribution: LEDDistribution, exploits: Tensor, entropy_final: Tensor) -> None:
        """Adds the rows where `rows` (rows,) is true. Explored: the expected share of draws from the latent branch."""
        weight = rows.double()
        explored = torch.where(exploits, 1 - distribution.confidence, 1.0)
        columns = (torch.ones_like(weight), explored, distribution.confidence, entropy(distribution.mu), entropy_final)
        for i, column in enumerate(columns):
            self.sums[i] += torch.where(rows, column.double(), 0.0).sum()
        self.depths.scatter_add_(0, distribution.depth, weight)

    def totals(self, reset: bool = False) -> dict[str, float]:
        """Synchronises with the device. Entropies in nats; `depth_j` counts rows that aggregate j latent layers."""
        values = dict(zip(self.NAMES, self.sums.tolist(), strict=True))
        values |= {f"depth_{j}": count for j, count in enumerate(self.depths.tolist())}
        if reset:
            self.sums.zero_()
            self.depths.zero_()
        return values


def rewrite_logits(
    logits: Tensor,
    explore: Tensor,
    slot_of_row: Tensor,
    slots: DecodingSlots,
    rows: SampledRows,
    temperature: Tensor,
    positions: Tensor,
    statistics: LEDStatistics,
    record: Callable[[Tensor, LEDDistribution], None] | None = None,
) -> None:
    """Writes log mu into the rows of `logits` that `explore` names, in place.

    Args:
        logits: (rows, vocab) float32, after temperature and everything that edits the final layer's logits.
        explore: (rows,) bool: rows that decode with their request's decoding now.
        slot_of_row: (rows,) int64 into `slots`.
        temperature: (rows,) with which `logits` were divided, 0 for greedy rows (theirs were divided by 1).
        positions: (rows,) of the token fed in.
        record: called with the (rows, depth, k) posteriors and the distribution.
    """
    needs = slots.needs()
    settings = slots.settings[slot_of_row]  # (rows, settings)
    greedy = temperature == 0
    scale = torch.where(greedy, 1.0, temperature)[:, None]  # (rows, 1)

    k = min(needs.k, logits.shape[-1])
    final, candidates = logits.topk(k, dim=-1)  # (rows, k)
    ranks = torch.arange(k, device=logits.device)
    allowed = ~torch.isneginf(final) & (ranks < settings[:, K, None])
    log_p = torch.log_softmax(logits, dim=-1)  # (rows, vocab)
    entropy_final = -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)
    posteriors = [log_p.gather(-1, candidates).exp()]

    normed = settings[:, NORMED].bool() if needs.latent_norm else None
    for index in range(needs.deepest):
        latent = rows.model.latent_logits(rows.latent(index), normed).float() / scale  # (rows, vocab)
        log_normaliser = torch.logsumexp(latent, dim=-1, keepdim=True)
        posteriors.append((latent.gather(-1, candidates) - log_normaliser).exp())
    table = torch.stack(posteriors, dim=1)  # (rows, 1 + latents, k)
    order = settings[:, ORDER : ORDER + 1 + needs.latents]
    table = table.gather(1, order[:, :, None].expand(-1, -1, k))  # (rows, depth, k) in each row's own order

    exploits = settings[:, EXPLOIT].bool()
    led = combine(candidates, table, allowed, depth=settings[:, DEPTH], greedy=greedy, exploit=exploits)
    is_led = settings[:, LED].bool()
    restricted = table[:, 0] * allowed  # top_k_control: the final layer on its k candidates
    mu = torch.where(is_led[:, None], led.mu, restricted / restricted.sum(-1, keepdim=True))
    led = led._replace(mu=mu)

    new = torch.where(explore[:, None], mu.log(), final)
    logits.masked_fill_(explore[:, None], float("-inf")).scatter_(-1, candidates, new)
    sampled = explore & is_led & (positions >= settings[:, KNOWN] - 1)  # not the rows of an unfinished prefill
    statistics.add(sampled, led, exploits, entropy_final)
    if record is not None:
        record(table, led)
