"""The turns of a rollout, and what the engine told of their tokens laid along the whole completions."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass
class Turn:
    """What the engine generated for one prompt, which holds the earlier turns and their tool results."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    supports: Sequence[Sequence[int]] = ()  # a record for each token (led_rl/sampler/support.py)
    stopped: bool = False  # by the model or a stop string, not by a limit of length


def align_turns(
    turns: Sequence[Turn], prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[list[list[int]]]:
    """A record for each token of each completion, empty for tokens that no turn generated (tool results).

    The first turns are those of `prompts`, in order; each later one continues the completion that its prompt repeats.
    A completion may have been cut short after its last turn.
    """
    aligned = []
    for completion, placed in zip(completions, _placed(turns, prompts, completions), strict=True):
        records: list[list[int]] = [[] for _ in completion]
        for at, turn in placed:
            for i, record in enumerate(turn.supports[: len(records) - at]):
                records[at + i] = list(record)
        aligned.append(records)
    return aligned


def stopped(
    turns: Sequence[Turn], prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[bool]:
    """Whether each completion ends where the engine stopped by itself; one that was cut short afterwards does not."""
    return [
        placed[-1][1].stopped and placed[-1][0] + len(placed[-1][1].tokens) == len(completion)
        for completion, placed in zip(completions, _placed(turns, prompts, completions), strict=True)
    ]


def _placed(
    turns: Sequence[Turn], prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Iterator[list[tuple[int, Turn]]]:
    """For each completion its turns in order, each with the position of its first token."""
    first, later = turns[: len(prompts)], defaultdict(list)
    for turn in turns[len(prompts) :]:
        later[tuple(turn.prompt)].append(turn)
    lengths = sorted({len(prompt) for prompt in later})
    for turn, prompt, completion in zip(first, prompts, completions, strict=True):
        placed = [(0, turn)]
        whole = [*prompt, *completion]
        for length in lengths:
            waiting = later.get(tuple(whole[:length])) if len(prompt) < length <= len(whole) else None
            if waiting:
                placed.append((length - len(prompt), waiting.pop(0)))
        yield placed
