"""Dynamic sampling on rows that a plain function samples: which groups make way, for what, and what is counted."""

import threading

import pytest
import torch

from led_rl.training.schedules.dynamic_sampling import (
    DynamicSampler,
    Row,
    fresh_rows,
    groups_that_differ,
    prompts_of_a_round,
)

NAN = float("nan")


class Processes:
    """`gather` and the gathering of rewards among threads that stand for processes."""

    def __init__(self, count):
        self.count, self.parts = count, [None] * count
        self.barrier = threading.Barrier(count, timeout=20)

    def gather(self, rank, part):
        self.parts[rank] = part
        self.barrier.wait()
        joined = [one for each in self.parts for one in each]
        self.barrier.wait()
        return joined


def reward_of(prompt: int, member: int) -> float:
    """Prompts that three divides are dull."""
    return 1.0 if prompt % 3 == 0 else float(member % 2)


def fill(prompts, processes=1, size=4, rounds=10, dataset=range(100, 130)):
    """The batch after dynamic sampling, its rewards, and the counts of all processes."""
    meeting, results = Processes(processes), [None] * processes
    here = len(prompts) * size // processes

    def work(rank):
        def sample(inputs):
            first = rank * len(inputs)
            rows = [Row(one, [one["prompt"]] * (1 + (first + i) % size)) for i, one in enumerate(inputs)]
            local = [[reward_of(one["prompt"], (first + i) % size)] for i, one in enumerate(inputs)]
            return rows, torch.tensor(meeting.gather(rank, local))

        sampler = DynamicSampler(
            rank, processes, size, rounds, sample, lambda rewards: groups_that_differ(rewards, torch.ones(1), size),
            lambda part: meeting.gather(rank, part),
        )  # fmt: skip
        everything = [{"prompt": prompt} for prompt in prompts for _ in range(size)]
        rows, rewards = sample(everything[rank * here : (rank + 1) * here])
        before = list(rows)
        supply = [{"prompt": prompt} for prompt in dataset]
        counts = sampler.fill(rows, rewards, lambda taken: (row for row in supply if row["prompt"] not in taken))
        results[rank] = before, rows, rewards, counts

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert None not in results
    return results


def prompts_of(results, size=4):
    rows = [row.inputs["prompt"] for _, after, _, _ in results for row in after]
    assert all(len(set(rows[i : i + size])) == 1 for i in range(0, len(rows), size))
    return rows[::size]


@pytest.mark.parametrize(("processes", "size"), [(1, 4), (2, 4), (4, 2), (3, 2), (4, 6), (3, 12)])
def test_dull_groups_make_way_and_the_others_stay(processes, size):
    prompts = [1, 3, 2, 6, 4, 9, 5, 7, 8, 10, 11, 12]
    results = fill(prompts, processes, size)
    after = prompts_of(results, size)
    fresh = [prompt for prompt in range(100, 130) if prompt % 3]
    assert after == [1, fresh[0], 2, fresh[1], 4, fresh[2], 5, 7, 8, 10, 11, fresh[3]]
    for before, rows, rewards, counts in results:
        for old, new in zip(before, rows, strict=True):
            assert (old is new) == (old.inputs["prompt"] % 3 != 0)
        assert (counts.equal, counts.replaced, counts.left) == (4, 4, 0)
        assert rewards[:, 0].tolist() == [reward_of(prompt, i) for prompt in after for i in range(size)]
    lengths = [len(row.completion_ids) for _, rows, _, _ in results for row in rows]
    assert lengths == [1 + i % size for i in range(len(lengths))]  # members keep their place
    assert len({(c.rounds, c.drawn) for *_, c in results}) == 1
    # sampled in all, but for what is trained on
    drawn = results[0][3].drawn
    assert sum(c.tokens for *_, c in results) == drawn * size * (size + 1) // 2


def test_rounds_are_bounded_and_what_is_left_is_trained():
    ((_, rows, _, counts),) = fill([3, 6, 9], rounds=2, dataset=[102, 105, 108, 111, 112, 114, 115])
    assert counts.rounds == 2
    assert (counts.drawn, counts.replaced, counts.left) == (6, 1, 2)
    assert [row.inputs["prompt"] for row in rows[::4]] == [112, 6, 9]


def test_a_dataset_that_has_no_more_ends_it():
    ((_, rows, _, counts),) = fill([3, 6, 9], dataset=[3, 101, 102])
    assert (counts.rounds, counts.drawn, counts.replaced) == (1, 2, 1)
    assert [row.inputs["prompt"] for row in rows[::4]] == [101, 6, 9]


def test_nothing_is_sampled_where_all_groups_differ():
    ((before, rows, _, counts),) = fill([1, 2, 4])
    assert rows == before
    assert (counts.rounds, counts.drawn, counts.tokens) == (0, 0, 0)


@pytest.mark.parametrize(
    ("wanted", "size", "processes", "drawn"), [(1, 8, 1, 1), (3, 8, 2, 3), (3, 3, 2, 4), (1, 2, 8, 4), (5, 6, 4, 6)]
)
def test_a_round_has_equally_many_rows_on_every_process(wanted, size, processes, drawn):
    assert prompts_of_a_round(wanted, size, processes) == drawn
    assert drawn * size % processes == 0


def test_what_counts_as_different():
    rewards = torch.tensor(
        [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0], [NAN, 1.0], [NAN, NAN], [1.0, NAN], [0.0, NAN]]
    )

    def differ(weights=(1.0, 1.0), **options):
        return groups_that_differ(rewards, torch.tensor(weights), 2, **options)

    assert differ() == [False, False, False, True]  # the sums 1 and 1 are equal; one alone cannot differ
    assert differ((1.0, 0.5)) == [True, False, False, True]
    assert differ(deciding=1) == [True, False, False, False]
    assert differ(each_alone=True) == [True, False, False, True]
    assert differ((0.0, 1.0), each_alone=True) == [True, False, False, False]


def test_rounding_makes_no_difference():
    assert torch.full((8,), 0.7).std() > 1e-8  # the mean of equal numbers is rounded
    equal = torch.tensor([[0.7, 0.0]] * 6 + [[3.3, 0.0]] * 6 + [[0.1, 0.2]] * 3 + [[0.3, 0.0]] * 3)

    assert groups_that_differ(equal, torch.ones(2), 6) == [False, False, False]
    assert groups_that_differ(equal + torch.tensor([[0.0], [1e-4]] * 9), torch.ones(2), 6) == [True] * 3


def test_fresh_rows_hang_on_seed_and_batch_alone_and_leave_the_batch_s_prompts_out():
    dataset = [{"prompt": prompt} for prompt in "abcdefgh"]

    def order(seed, batch, taken=()):
        return "".join(row["prompt"] for row in fresh_rows(dataset, seed, batch, taken))

    assert order(3, 7) == order(3, 7)
    assert sorted(order(3, 7)) == list("abcdefgh")
    assert len({order(seed, batch) for seed in range(4) for batch in range(4)}) == 16
    assert order(3, 7, taken=["a", "h"]) == order(3, 7).replace("a", "").replace("h", "")
