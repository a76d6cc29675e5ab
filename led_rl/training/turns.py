"""The turns of a rollout, and the supports of their tokens laid along the whole completions."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Turn:
    """What the engine generated for one prompt, which holds the earlier turns and their tool results."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    supports: Sequence[Sequence[int]]  # a record for each token (led_rl/sampler/support.py)


def align_turns(
    turns: Sequence[Turn], prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> list[list[list[int]]]:
    """A record for each token of each completion, empty for tokens that no turn generated (tool results).

    The first turns are those of `prompts`, in order; each later one continues the completion that its prompt repeats.
    A completion may have been cut short after its last turn.
    """
    first, later = turns[: len(prompts)], defaultdict(list)
    for turn in turns[len(prompts) :]:
        later[tuple(turn.prompt)].append(turn)
    lengths = sorted({len(prompt) for prompt in later})
    aligned = []
    for turn, prompt, completion in zip(first, prompts, completions, strict=True):
        records: list[list[int]] = [[] for _ in completion]

        def lay(turn: Turn, at: int, records: list[list[int]] = records) -> None:
            for i, record in enumerate(turn.supports[: len(records) - at]):
                records[at + i] = list(record)

        lay(turn, 0)
        whole = [*prompt, *completion]
        for length in lengths:
            waiting = later.get(tuple(whole[:length])) if len(prompt) < length <= len(whole) else None
            if waiting:
                lay(waiting.pop(0), length - len(prompt))
        aligned.append(records)
    return aligned
