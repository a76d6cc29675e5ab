"""LED from one step to another; standard decoding before and after."""

from dataclasses import dataclass, replace

from led_rl.training.schedules.plan import RolloutPlan


@dataclass(frozen=True)
class Switch:
    """Rollouts explore from step `first` on, up to but without step `end`; None: to the end of the run."""

    first: int
    end: int | None

    def plan(self, plan: RolloutPlan, step: int) -> RolloutPlan:
        inside = self.first <= step and (self.end is None or step < self.end)
        return plan if inside else replace(plan, explored=0)
