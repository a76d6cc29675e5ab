"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups of equal rewards make way for groups of fresh prompts.

All completions of such a group have advantage 0. Fresh prompts are sampled, and a fresh group whose rewards differ
takes the place of an old one, the first of the old ones first. Groups whose rewards differ stay as they are. What finds
no replacement within `max_rounds` is trained as it is.

Every process decides from the gathered rewards, and so makes the same rounds, each with equally many rows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Row:
    """One completion, and all that hangs on it.

    Attributes:
        inputs: its row of the dataset.
        completion_ids: its tokens.
        logprobs: of the tokens, where the engine tells them.
        support: of the tokens, where the engine tells them (led_rl/sampler/support.py).
        stopped: whether it ended by itself, where the engine tells it.
        extras: what the reward functions log of it, by column.
    """

    inputs: dict[str, Any]
    completion_ids: list[int]
    logprobs: list[Any] | None = None
    support: list[list[int]] | None = None
    stopped: bool | None = None
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass
class Counts:
    """What dynamic sampling did for one batch; all but `tokens` are the same on every process.

    Attributes:
        equal: groups of equal rewards in the batch as it was first sampled.
        rounds: how many times fresh prompts were sampled.
        drawn: fresh prompts that were sampled.
        replaced: groups that made way.
        tokens: of this process's completions that are not trained on.
    """

    equal: int = 0
    rounds: int = 0
    drawn: int = 0
    replaced: int = 0
    tokens: int = 0

    @property
    def left(self) -> int:
        """Groups of equal rewards that are trained on."""
        return self.equal - self.replaced


def groups_that_differ(
    rewards: Tensor, weights: Tensor, num_generations: int, deciding: int | None = None, each_alone: bool = False
) -> list[bool]:
    """Of each group, whether its rewards differ by more than rounding, so that some advantage is not 0.

    The standard deviation does not tell: that of equal numbers is not 0 where their mean is rounded.

    Args:
        rewards: (rows, functions), groups one after the other; NaN where a function judged nothing.
        weights: (functions,) of the functions.
        deciding: the one function that counts; None: their weighted sum.
        each_alone: functions are normalised before they are summed: it is enough if the values of one differ.
    """
    if deciding is not None:
        columns = rewards[:, deciding : deciding + 1]
    elif each_alone:
        columns = rewards[:, weights != 0]
    else:
        columns = (rewards * weights).nansum(1, keepdim=True)
        columns[rewards.isnan().all(1)] = torch.nan
    grouped = columns.view(-1, num_generations, columns.shape[1])  # (groups, rows, columns)
    least, most = grouped.nan_to_num(nan=torch.inf).amin(1), grouped.nan_to_num(nan=-torch.inf).amax(1)
    return ((most > least) & ~torch.isclose(least, most, rtol=1e-6, atol=1e-8)).any(1).tolist()


def prompts_of_a_round(wanted: int, num_generations: int, processes: int) -> int:
    """The fewest prompts, `wanted` at least, whose completions every process can have equally many of."""
    step = processes // math.gcd(processes, num_generations)
    return -(-wanted // step) * step


def fresh_rows(dataset: Any, seed: int, batch: int, taken: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The rows of a dataset in an order of the batch's own, but for those whose prompt is among `taken`.

    The order hangs on the seed and on the number of the batch alone, so that a resumed run draws what it would have.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + batch) % 2**63)
    for i in torch.randperm(len(dataset), generator=generator).tolist():
        row = dataset[i]
        if row["prompt"] not in taken:
            yield row


class DynamicSampler:
    """Replaces groups of equal rewards.

    Args:
        rank: number of this process.
        processes: number of all.
        num_generations: completions of a group.
        max_rounds: how often fresh prompts are sampled at most.
        sample: (rows of the dataset, one for each completion) -> (these completions, (rows, functions) rewards of all
            processes' rows, in order). All processes take part.
        differ: (rewards) -> of each group, whether its rewards differ.
        gather: (list) -> the lists of all processes one after the other. All processes take part.
    """

    def __init__(
        self,
        rank: int,
        processes: int,
        num_generations: int,
        max_rounds: int,
        sample: Callable[[list[dict[str, Any]]], tuple[list[Row], Tensor]],
        differ: Callable[[Tensor], list[bool]],
        gather: Callable[[list], list],
    ):
        self.rank, self.processes = rank, processes
        self.num_generations, self.max_rounds = num_generations, max_rounds
        self.sample, self.differ, self.gather = sample, differ, gather

    def fill(self, rows: list[Row], rewards: Tensor, fresh: Callable[[list], Iterator[dict]]) -> Counts:
        """Replaces groups within `rows`, this process's part of a batch, and within `rewards`, all of its.

        Args:
            rows: this process's, in place.
            rewards: (rows of all processes, functions), in place.
            fresh: (prompts of the batch) -> fresh rows of the dataset, the same on all processes.
        """
        size = self.num_generations
        waiting = [group for group, differs in enumerate(self.differ(rewards)) if not differs]
        counts = Counts(equal=len(waiting))
        if not waiting:
            return counts
        prompts = [row.inputs["prompt"] for row in rows]
        supply = fresh(self.gather([prompt for i, prompt in enumerate(prompts) if not i or prompt != prompts[i - 1]]))
        while waiting and counts.rounds < self.max_rounds:
            wanted = prompts_of_a_round(len(waiting), size, self.processes)
            drawn = [row for _, row in zip(range(wanted), supply, strict=False)]
            drawn = drawn[: len(drawn) - len(drawn) % prompts_of_a_round(1, size, self.processes)]
            if not drawn:
                break  # the dataset has no more
            counts.rounds += 1
            counts.drawn += len(drawn)
            here = len(drawn) * size // self.processes
            mine = [dict(drawn[(self.rank * here + i) // size]) for i in range(here)]
            sampled, found = self.sample(mine)
            good = [group for group, differs in enumerate(self.differ(found)) if differs]
            pairs = list(zip(waiting, good, strict=False))
            counts.tokens += sum(len(row.completion_ids) for row in sampled)
            counts.tokens -= self._place(pairs, rows, sampled)
            for old, new in pairs:
                rewards[old * size : (old + 1) * size] = found[new * size : (new + 1) * size]
            counts.replaced += len(pairs)
            waiting = waiting[len(pairs) :]
        return counts

    def _place(self, pairs: list[tuple[int, int]], rows: list[Row], sampled: list[Row]) -> int:
        """Puts sampled groups in the place of others; returns how many more tokens of this process's samples train."""
        size, here = self.num_generations, len(sampled)
        sent, balance = [], 0
        for old, new in pairs:
            for member in range(size):
                source, at = divmod(new * size + member, here)
                if source == self.rank:
                    sent.append((old * size + member, sampled[at]))
                    balance += len(sampled[at].completion_ids)
        arrived = sent
        if self._travels(pairs, len(rows), here):
            staying = [(place, row) for place, row in sent if place // len(rows) == self.rank]
            arrived = staying + self.gather([(place, row) for place, row in sent if place // len(rows) != self.rank])
        for place, row in arrived:
            owner, at = divmod(place, len(rows))
            if owner == self.rank:
                balance -= len(rows[at].completion_ids)
                rows[at] = row
        return balance

    def _travels(self, pairs: list[tuple[int, int]], rows: int, sampled: int) -> bool:
        """Whether a row has to go to another process; every process answers the same."""
        size = self.num_generations
        return any(
            (old * size + member) // rows != (new * size + member) // sampled
            for old, new in pairs
            for member in range(size)
        )
