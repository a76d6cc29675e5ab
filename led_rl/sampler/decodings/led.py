"""LED (led_rl/led.py): the coin first, or one draw from mu."""

import torch
from torch import Tensor

from led_rl.decoding import AGGREGATIONS
from led_rl.led import exploit_branch, explore_branch, inverse_cdf, toss_coin
from led_rl.sampler.step import Draw, Read, Step


def draw_led(step: Step) -> Draw:
    """Draws a token for each row from LED's policy: branch first where the request says `coin`, else from mu."""
    candidates, p_final, allowed = step.final_layer()  # (n, k)
    confidence = p_final[:, 0]
    exploits, coin, all_coin = step.exploit(), step.coin(), step.all_coin()
    b = exploit_branch(p_final, allowed, greedy=step.greedy())
    uniform, weight = step.uniform, confidence if exploits is None else torch.where(exploits, confidence, 0.0)
    explore = wanted = weight < 1  # q does not count where its weight is 0
    if coin is not None:
        explore, within = toss_coin(uniform, confidence, exploits)
        uniform = within if all_coin else torch.where(coin, within, uniform)
        wanted = explore if all_coin else torch.where(coin, explore, wanted)

    if step.read_all:
        assert step.undrawable is not None
        wanted = ~step.undrawable
    q, read = read_latents(step, candidates, p_final, allowed, b, wanted)
    if all_coin:
        policy, explored = torch.where(explore[:, None], q, b) if step.read_all else q, explore
    else:
        mu = weight[:, None] * b + (1 - weight)[:, None] * q
        policy, explored = mu / mu.sum(-1, keepdim=True), 1 - weight
        if coin is not None:
            policy = torch.where(coin[:, None], torch.where(explore[:, None], q, b), policy)
            explored = torch.where(coin, explore.double(), explored)
    tokens = candidates.gather(1, inverse_cdf(policy, uniform)[:, None]).squeeze(1)
    return Draw(tokens, candidates, policy, explored, confidence, read)


def read_latents(
    step: Step, candidates: Tensor, p_final: Tensor, allowed: Tensor, b: Tensor, wanted: Tensor
) -> tuple[Tensor, Read | None]:
    """q (n, k) of the rows that are `wanted` and b of the others, and what was read.

    On CPU only the rows wanted are computed; a device computes all, since asking it which would be a sync.
    """
    rows = None
    aggregation, depth, greedy = step.aggregation(), step.depth(), step.greedy()
    ids, posteriors = candidates, p_final[:, None]  # (m, 1, k)
    if not wanted.is_cuda:
        rows = wanted.nonzero().squeeze(1)
        if not len(rows):
            return b, None
        ids, posteriors, allowed = ids[rows], posteriors[rows], allowed[rows]
        depth, greedy = None if depth is None else depth[rows], None if greedy is None else greedy[rows]
        aggregation = aggregation if isinstance(aggregation, int) else aggregation[rows]
    if step.needs.latents:
        log_normaliser, logits = step.latent_statistics(ids, rows, wanted if rows is None else None)
        posteriors = torch.cat(
            [posteriors, (logits - log_normaliser[..., None]).double().exp()], dim=1
        )  # (m, depth, k)
    q, chosen = explore_branch(
        posteriors,
        allowed,
        depth=depth,
        greedy=greedy,
        aggregation=AGGREGATIONS[aggregation] if isinstance(aggregation, int) else aggregation,
    )
    if rows is None:
        return torch.where(wanted[:, None], q, b), Read(None, wanted, chosen, posteriors)
    return b.index_copy(0, rows, q), Read(rows, None, chosen, posteriors)
