"""Countdown with three numbers: combine each of 1-9 exactly once by + - * and reach the target.

The reasoning trace lists attempts and judges each one, then answers:

    3 5 7 make 22
    <think> 5 + 3 = 8 ; 8 + 7 = 15 no 5 * 3 = 15 ; 15 + 7 = 22 yes </think> \\boxed{ ( 5 * 3 ) + 7 }

Every integer 0-99 is one token, and the text of a trace is its tokens joined by single spaces.
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from typing import Literal, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

Split = Literal["train", "test"]

LARGEST_NUMBER = 9
INTEGERS = 100  # every value in a trace is an integer of 0-99
TEST_SHARE = 6  # one multiset of numbers in six is for testing

PAD, START_OF_TURN, END_OF_TURN = "<pad>", "<|im_start|>", "<|im_end|>"
MARKERS = ["<think>", "</think>", "\\boxed{"]
WORDS = ["}", "+", "-", "*", "=", "(", ")", ";", "no", "yes", "make", "user", "assistant"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant <think>{% endif %}"
)

GIVE_UP_RATE = 0.4
FAILURES_BEFORE_SUCCESS = {0: 0.3, 1: 0.3, 2: 0.2, 3: 0.2}
FAILURES_BEFORE_GIVING_UP = {1: 0.4, 2: 0.35, 3: 0.25}
LONGEST_RESPONSE = 12 * 4 + 11  # tokens: four attempts, `</think>`, the boxed expression and the end of the turn


@dataclass(frozen=True)
class Problem:
    numbers: tuple[int, int, int]
    target: int

    @property
    def text(self) -> str:
        return f"{' '.join(map(str, self.numbers))} make {self.target}"

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.text}]


class Step(NamedTuple):
    """`left operator right = result`, the larger operand on the left."""

    left: int
    operator: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"


class Attempt(NamedTuple):
    """Two steps; the second combines the first one's result with the number left over."""

    first: Step
    second: Step

    @property
    def value(self) -> int:
        return self.second.result

    @property
    def expression(self) -> str:
        inner = f"( {self.first.left} {self.first.operator} {self.first.right} )"
        if self.second.left == self.first.result:
            return f"{inner} {self.second.operator} {self.second.right}"
        return f"{self.second.left} {self.second.operator} {inner}"


@dataclass(frozen=True)
class Trace:
    """What the demonstrator thinks and answers: the last attempt, whether it reaches the target or not."""

    problem: Problem
    attempts: tuple[Attempt, ...]

    @property
    def solved(self) -> bool:
        return self.attempts[-1].value == self.problem.target

    @property
    def response(self) -> str:
        """The text after the prompt's `<think>`, up to and including the end of the turn."""
        thoughts = [
            f"{attempt.first} ; {attempt.second} {'yes' if attempt.value == self.problem.target else 'no'}"
            for attempt in self.attempts
        ]
        return f"{' '.join(thoughts)} </think> \\boxed{{ {self.attempts[-1].expression} }} {END_OF_TURN}"


@cache
def attempts(numbers: tuple[int, int, int]) -> tuple[Attempt, ...]:
    """Every attempt at `numbers`, whatever the target, each once and in a fixed order."""
    found: dict[Attempt, None] = {}
    for left_over in range(3):
        a, b = (number for i, number in enumerate(numbers) if i != left_over)
        for first in _steps(a, b):
            for second in _steps(first.result, numbers[left_over]):
                found[Attempt(first, second)] = None
    return tuple(found)


def _steps(a: int, b: int) -> list[Step]:
    a, b = max(a, b), min(a, b)
    steps = [Step(a, "+", b, a + b), Step(a, "-", b, a - b), Step(a, "*", b, a * b)]
    return [step for step in steps if step.result < INTEGERS]


def split_of(numbers: tuple[int, ...]) -> Split:
    """The split of a multiset of numbers: all its orders and targets are on the same side."""
    digest = hashlib.sha256(" ".join(map(str, sorted(numbers))).encode()).digest()
    return "test" if int.from_bytes(digest) % TEST_SHARE == 0 else "train"


@cache
def problems(split: Split) -> tuple[Problem, ...]:
    """`all_problems` of this task."""
    return all_problems(split, "countdown", LARGEST_NUMBER, split_of)


def all_problems(
    split: Split, task: str, largest_number: int, split_of: Callable[[tuple[int, ...]], Split]
) -> tuple[Problem, ...]:
    """All problems of a split with a positive target that some attempt reaches, each multiset and target once.

    The order, of the problems and of the numbers in each, is shuffled but always the same for a task.
    """
    rng = random.Random(f"{task}/{split}")
    found = []
    for numbers in combinations_with_replacement(range(1, largest_number + 1), 3):
        if split_of(numbers) == split:
            targets = sorted({attempt.value for attempt in attempts(numbers)} - {0})
            found += [Problem(_shuffled(numbers, rng), target) for target in targets]
    rng.shuffle(found)
    return tuple(found)


def traces(count: int, seed: str) -> Iterator[Trace]:
    """Traces over random training problems by a noisy demonstrator, a function of `seed` alone.

    It gives up in GIVE_UP_RATE of the traces: after a few failures it answers its last attempt all the same. A model
    that imitates it has room to improve by reinforcement learning.
    """
    rng = random.Random(seed)
    for problem in rng.choices(problems("train"), k=count):
        problem = Problem(_shuffled(problem.numbers, rng), problem.target)
        hits = [attempt for attempt in attempts(problem.numbers) if attempt.value == problem.target]
        misses = [attempt for attempt in attempts(problem.numbers) if attempt.value != problem.target]
        gives_up = rng.random() < GIVE_UP_RATE
        failures = FAILURES_BEFORE_GIVING_UP if gives_up else FAILURES_BEFORE_SUCCESS
        (wanted,) = rng.choices(list(failures), list(failures.values()))
        tried = rng.sample(misses, min(wanted, len(misses)))
        yield Trace(problem, tuple(tried if gives_up else [*tried, rng.choice(hits)]))


def _shuffled(numbers: tuple[int, int, int], rng: random.Random) -> tuple[int, int, int]:
    a, b, c = rng.sample(numbers, 3)
    return a, b, c


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per integer 0-99, word, operator and marker; text outside this vocabulary is an error.

    The think markers and `\\boxed{` are ordinary tokens that decoding with `skip_special_tokens=True` keeps, because
    rewards read them in the text.
    """
    special = [PAD, START_OF_TURN, END_OF_TURN]
    tokens = [*special, *MARKERS, *WORDS, *map(str, range(INTEGERS))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}))
    symbols_apart = pre_tokenizers.Split(Regex(r"\d+|[-+*=();}]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), symbols_apart])
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END_OF_TURN,
        extra_special_tokens=[START_OF_TURN],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        padding_side="left",
    )
