"""A share of each group is sampled with LED, the rest by standard decoding."""

import math
from dataclasses import dataclass, replace

from led_rl.training.schedules.plan import RolloutPlan
from led_rl.training.schedules.points import Points


def count_of(share: float, generations: int) -> int:
    """How many of a group's completions a share of them is: the nearest whole number, halves up."""
    return math.floor(share * generations + 0.5)


@dataclass(frozen=True)
class Share:
    """`share` of each group's completions explore."""

    share: Points

    def plan(self, plan: RolloutPlan, step: int) -> RolloutPlan:
        return replace(plan, explored=count_of(self.share.at(step), plan.generations))
