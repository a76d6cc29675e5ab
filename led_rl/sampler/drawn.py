"""What a step drew, for the engine's runner to take over its own tokens."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Drawn:
    """A step's tokens. On CPU only the rows that were drawn; on a device all rows: asking which would be a sync."""

    rows: Tensor  # (n,) int64 rows of the engine's batch, ascending
    active: Tensor | None  # (n,) bool: rows to take from here; None: all of them
    tokens: Tensor  # (n,)
    candidates: Tensor  # (n, k)
    policy: Tensor  # (n, k) float64
    explored: Tensor  # (n,) float64

    def write_policy(self, scores: Tensor) -> Tensor:
        """Writes log-policies over the rows concerned of (rows, vocab) log-probabilities, in place."""
        if self.active is None:
            from led_rl.sampler.on_cpu.draw import write_policy

            return write_policy(scores, self.rows, self.candidates, self.policy)
        from led_rl.sampler.on_gpu.draw import write_policy as write_policy_on_gpu

        return write_policy_on_gpu(scores, self.active, self.candidates, self.policy)


def widened(drawn: Drawn, k: int) -> Drawn:
    """A draw with k candidates a row: those that are added are other tokens than its own, of policy 0."""
    ids, more = drawn.candidates, k - drawn.candidates.shape[1]
    if not more:
        return drawn
    low = torch.arange(k, device=ids.device)
    taken = (low[:, None] == ids[:, None]).any(-1)  # (n, k)
    free = (low + k * taken).argsort(-1)[:, :more]  # at least `more` of the k lowest ids are not among the candidates
    policy = torch.nn.functional.pad(drawn.policy, (0, more))
    return replace(drawn, candidates=torch.cat([ids, free], dim=1), policy=policy)


def merged(drawn: list[Drawn]) -> Drawn | None:
    """The draws of several decodings as one."""
    if len(drawn) < 2:
        return drawn[0] if drawn else None
    widest = max(d.candidates.shape[1] for d in drawn)
    drawn = [widened(d, widest) for d in drawn]
    if drawn[0].active is None:
        rows = torch.cat([d.rows for d in drawn])
        order = rows.argsort()
        tokens, candidates, policy, explored = (
            torch.cat([getattr(d, name) for d in drawn])[order]
            for name in ("tokens", "candidates", "policy", "explored")
        )
        return Drawn(rows[order], None, tokens, candidates, policy, explored)
    result = drawn[0]
    for d in drawn[1:]:
        here = d.active
        assert here is not None
        assert result.active is not None
        result = Drawn(
            d.rows,
            result.active | here,
            torch.where(here, d.tokens, result.tokens),
            torch.where(here[:, None], d.candidates, result.candidates),
            torch.where(here[:, None], d.policy, result.policy),
            torch.where(here, d.explored, result.explored),
        )
    return result
