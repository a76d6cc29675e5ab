"""Countdown by systematic search: three numbers of 1-15, several routes to most targets, few decisions a token.

The words are the quickstart's (countdown.py). Its demonstrator draws every attempt at random, so that a sixth of a
model's tokens is a guess; this one searches. It starts near the target, goes on with the next attempt in a fixed order
(second operator, first operator, pair), jumps elsewhere now and then, and at times gives up:

    12 4 9 make 39
    <think> 9 + 4 = 13 ; 13 + 12 = 25 no 9 + 4 = 13 ; 13 - 12 = 1 no 9 * 4 = 36 ; ...

Most tokens then follow from what stands before them, as in the thoughts of large models; where to start, when to jump
and whether to go on is what a policy can improve.
"""

import hashlib
import math
import random
from collections.abc import Iterator
from functools import cache

from led_rl.toy.countdown import Attempt, Problem, Split, Trace, all_problems, attempts, build_tokenizer

__all__ = ["LONGEST_RESPONSE", "build_tokenizer", "problems", "split_of", "traces"]

LARGEST_NUMBER = 15
TEST_SHARE = 5  # one multiset of numbers in five is for testing
MOST_ATTEMPTS = 6
NEARNESS = 25.0  # an attempt whose value misses the target by this much is 1/e as likely to be started with as a hit
JUMP_RATE = 0.2
GIVE_UP_RATE = 0.15  # after each failure
LONGEST_RESPONSE = 12 * MOST_ATTEMPTS + 11  # tokens: attempts, `</think>`, the boxed expression, the end of the turn


def split_of(numbers: tuple[int, ...]) -> Split:
    """The split of a multiset of numbers: all its orders and targets are on the same side."""
    digest = hashlib.sha256(("routes " + " ".join(map(str, sorted(numbers)))).encode()).digest()
    return "test" if int.from_bytes(digest) % TEST_SHARE == 0 else "train"


@cache
def problems(split: Split) -> tuple[Problem, ...]:
    """`all_problems` of this task."""
    return all_problems(split, "routes", LARGEST_NUMBER, split_of)


def traces(count: int, seed: str) -> Iterator[Trace]:
    """Traces over random training problems by the searching demonstrator, a function of `seed` alone."""
    rng = random.Random(seed)
    for problem in rng.choices(problems("train"), k=count):
        a, b, c = rng.sample(problem.numbers, 3)
        yield _search(Problem((a, b, c), problem.target), rng)


def _search(problem: Problem, rng: random.Random) -> Trace:
    order = attempts(problem.numbers)
    weights = [math.exp(-abs(attempt.value - problem.target) / NEARNESS) for attempt in order]
    tried: list[Attempt] = []
    place = rng.choices(range(len(order)), weights)[0]
    while True:
        tried.append(order[place])
        given_up = len(tried) == min(MOST_ATTEMPTS, len(order)) or rng.random() < GIVE_UP_RATE
        if tried[-1].value == problem.target or given_up:
            return Trace(problem, tuple(tried))
        left = [i for i in range(len(order)) if order[i] not in tried]
        if rng.random() < JUMP_RATE:
            place = rng.choices(left, [weights[i] for i in left])[0]
        else:
            place = next((i for i in left if i > place), left[0])
