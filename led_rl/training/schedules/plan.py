"""How the completions of one rollout are sampled, and the protocol of what changes it from step to step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from led_rl.decoding import STANDARD, DecodingParams


@dataclass(frozen=True)
class RolloutPlan:
    """How the completions of one rollout are sampled.

    Attributes:
        decoding: of the rows that explore; all others are sampled by standard decoding.
        temperature: of all rows, and of the loss on them.
        generations: completions of a group.
        explored: how many of each group explore.
    """

    decoding: DecodingParams
    temperature: float
    generations: int
    explored: int

    @property
    def is_mixed(self) -> bool:
        """Whether a group holds rows of both kinds."""
        return 0 < self.explored < self.generations

    @property
    def rollout_decoding(self) -> DecodingParams:
        """The decoding that some row is sampled with, standard if none explores."""
        return self.decoding if self.explored else STANDARD

    def explores(self, row: int) -> bool:
        """Whether a row, counted over all processes, is sampled with `decoding`.

        Exactly `explored` of each group's rows are, spread evenly: where a group lies on several processes, each has
        its part of the slower rows.
        """
        member = row % self.generations
        return (member + 1) * self.explored // self.generations > member * self.explored // self.generations


class Schedule(Protocol):
    """Something that changes over a run's steps. It knows the step alone, so that a resumed run goes on as it would."""

    def plan(self, plan: RolloutPlan, step: int) -> RolloutPlan:
        """The plan of a rollout made when `step` optimizer steps are done, 0 for the first."""
        ...


def plan_at(schedules: Iterable[Schedule], start: RolloutPlan, step: int) -> RolloutPlan:
    """The plan of a step: each schedule changes what the one before it left."""
    for schedule in schedules:
        start = schedule.plan(start, step)
    return start
