"""Depth, number of candidates and temperature as functions of the step."""

from dataclasses import dataclass, replace

from led_rl.training.schedules.plan import RolloutPlan
from led_rl.training.schedules.points import Points


@dataclass(frozen=True)
class ScheduledDepth:
    """`led_depth` of the rows that explore."""

    depth: Points

    def plan(self, plan: RolloutPlan, step: int) -> RolloutPlan:
        return replace(plan, decoding=replace(plan.decoding, depth=int(self.depth.at(step))))


@dataclass(frozen=True)
class ScheduledCandidates:
    """`led_k` of the rows that explore."""

    k: Points

    def plan(self, plan: RolloutPlan, step: int) -> RolloutPlan:
        return replace(plan, decoding=replace(plan.decoding, k=int(self.k.at(step))))


@dataclass(frozen=True)
class ScheduledTemperature:
    """`temperature` of all rows, and of the loss on them."""

    temperature: Points

    def plan(self, plan: RolloutPlan, step: int) -> RolloutPlan:
        return replace(plan, temperature=float(self.temperature.at(step)))
