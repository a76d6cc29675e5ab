"""LED (led_rl/led.py): the coin first, or one draw from mu."""

import torch
from torch import Tensor

from led_rl.decoding import AGGREGATIONS
from led_rl.engines.decode_step import Draw, Step
from led_rl.led import exploit_branch, explore_branch, inverse_cdf, toss_coin


def draw_led(step: Step) -> Draw:
    candidates, final, allowed = step.candidates()  # (n, k)
    normaliser = torch.logsumexp(step.logits, dim=-1, keepdim=True)
    p_final = (final - normaliser).exp()  # (n, k)
    confidence = p_final[:, 0]
    exploits = step.exploit()
    b = exploit_branch(p_final, allowed, greedy=step.greedy())
    coin = step.coin()
    if coin is None:
        explore = read = torch.ones_like(confidence, dtype=torch.bool)
        uniform = step.uniform
    else:
        explore, within = toss_coin(step.uniform, confidence, exploits)
        uniform = within if step.all_coin() else torch.where(coin, within, step.uniform)
        read = explore if step.all_coin() else explore | ~coin
    if step.read_all:
        read = torch.ones_like(read)

    q, depth, table = explore_rows(step, candidates, p_final, allowed, b, read)
    if coin is not None and step.all_coin():
        policy, explored = torch.where(explore[:, None], q, b), explore
    else:
        weight = confidence.double() if exploits is None else torch.where(exploits, confidence.double(), 0.0)
        mu = weight[:, None] * b + (1 - weight)[:, None] * q
        policy, explored = mu / mu.sum(-1, keepdim=True), 1 - weight
        if coin is not None:
            policy = torch.where(coin[:, None], torch.where(explore[:, None], q, b), policy)
            explored = torch.where(coin, explore.double(), explored)
    tokens = candidates.gather(1, inverse_cdf(policy, uniform)[:, None]).squeeze(1)
    return Draw(tokens, candidates, policy, explored, confidence, read, depth, table)


def explore_rows(
    step: Step, candidates: Tensor, p_final: Tensor, allowed: Tensor, b: Tensor, read: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """q (n, k), j* (n,) and the table of posteriors (n, depth, k); of rows that are not `read`, b, 0 and zeros."""
    subset = None
    if read.device.type == "cpu":  # compute the rows that need it; a device computes all, without a sync
        subset = read.nonzero().squeeze(1)
        if not len(subset):
            return b, torch.zeros_like(candidates[:, 0]), None
        if len(subset) == len(candidates):
            subset = None
    aggregation, depth, greedy = step.aggregation(), step.depth(), step.greedy()
    ids, posteriors = candidates, p_final[:, None]
    if subset is not None:
        ids, posteriors, allowed = ids[subset], posteriors[subset], allowed[subset]
        depth, greedy = None if depth is None else depth[subset], None if greedy is None else greedy[subset]
        aggregation = aggregation if isinstance(aggregation, int) else aggregation[subset]
    if step.needs.latents:
        needed = None if read.device.type == "cpu" else read
        log_normaliser, logits = step.latent_statistics(ids, subset, needed)
        posteriors = torch.cat([posteriors, (logits - log_normaliser[..., None]).exp()], dim=1)  # (rows read, depth, k)
    q, chosen = explore_branch(
        posteriors,
        allowed,
        depth=depth,
        greedy=greedy,
        aggregation=AGGREGATIONS[aggregation] if isinstance(aggregation, int) else aggregation,
    )
    if subset is None:
        return q, chosen, posteriors
    return (
        b.index_copy(0, subset, q),
        torch.zeros_like(candidates[:, 0]).index_copy_(0, subset, chosen),
        posteriors.new_zeros(len(candidates), *posteriors.shape[1:]).index_copy_(0, subset, posteriors),
    )
