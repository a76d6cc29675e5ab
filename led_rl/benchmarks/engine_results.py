"""What `led-rl benchmark` measures: blocks, ratios of neighbouring blocks, their summary and its table.

A machine's speed drifts by more than LED costs. So blocks of the other arms alternate with blocks of standard decoding,
and each is compared with the geometric mean of the standard block before it and the one after it: a steady drift
cancels. The spread is that of the ratios over rounds; their mean is geometric, too, so that noise does not favour the
numerator. Standard blocks are put through the same comparison, with the standard blocks
before and after them: their ratio is 1 but for noise, and its spread says what the machine can resolve.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from led_rl.benchmarks.ratios import Ratios, spread, within
from led_rl.terminal.tables import text_table

STANDARD = "standard"


@dataclass(frozen=True)
class Block:
    """One block of one arm. Times in seconds; the fields are those of engines.timed_blocks.Timing."""

    arm: str
    round: int
    place: int  # in the order of its round
    batch: int
    wall_s: float
    prefill_steps: int
    decode_s: float
    decode_steps: int
    median_step_s: float
    statistics: Mapping[str, float]
    peak_bytes: int | None

    @property
    def tokens_per_s(self) -> float:
        """Of the steps that decode the whole batch."""
        return self.batch * self.decode_steps / self.decode_s

    @property
    def new_tokens(self) -> int:
        """Of each request: prefill ends with the first."""
        return self.prefill_steps + self.decode_steps

    @property
    def ms_per_step(self) -> float:
        return 1000 * self.decode_s / self.decode_steps


@dataclass(frozen=True)
class Summary:
    """Medians over the blocks of one arm."""

    arm: str
    blocks: int
    tokens_per_s: float
    ms_per_step: float
    wall_ms_per_token: float  # a block's whole time over its new tokens a request, prefill included
    ratios: Ratios | None
    explored: float | None  # fraction of rows drawn from the latent branch
    read: float | None  # fraction of rows whose latent layers were read
    confidence: float | None  # mean of max p_L
    added_peak_bytes: int | None  # most device memory allocated, beyond that of standard blocks


def order_of_round(others: Sequence[str], number: int) -> list[str]:
    """standard, A, standard, B, ..., standard; A, B, ... start with another one in each round."""
    first = number % len(others)
    arms = [STANDARD]
    for arm in [*others[first:], *others[:first]]:
        arms += [arm, STANDARD]
    return arms


def neighbour_ratios(blocks: Sequence[Block], arm: str) -> list[float]:
    """One ratio for each block of the arm that lies between two standard blocks of its round."""
    ratios = []
    for number in sorted({block.round for block in blocks}):
        ordered = sorted((block for block in blocks if block.round == number), key=lambda block: block.place)
        for index, block in enumerate(ordered):
            before = [other for other in ordered[:index] if other.arm == STANDARD]
            after = [other for other in ordered[index + 1 :] if other.arm == STANDARD]
            if block.arm == arm and before and after:
                ratios.append(math.sqrt(before[-1].ms_per_step * after[0].ms_per_step) / block.ms_per_step)
    return ratios


def summarise(blocks: Sequence[Block]) -> list[Summary]:
    """One summary an arm, standard first."""
    arms = list(dict.fromkeys(block.arm for block in blocks))
    peaks = {arm: [b.peak_bytes for b in blocks if b.arm == arm and b.peak_bytes is not None] for arm in arms}
    summaries = []
    for arm in sorted(arms, key=lambda name: name != STANDARD):
        own = [block for block in blocks if block.arm == arm]
        rows = sum(block.statistics.get("rows", 0) for block in own)

        def of_rows(name: str, own: Sequence[Block] = own, rows: float = rows) -> float | None:
            return sum(block.statistics[name] for block in own) / rows if rows else None

        summaries.append(
            Summary(
                arm,
                len(own),
                median(block.tokens_per_s for block in own),
                median(block.ms_per_step for block in own),
                median(1000 * block.wall_s / block.new_tokens for block in own),
                spread(neighbour_ratios(blocks, arm)),
                of_rows("explored"),
                of_rows("read"),
                of_rows("confidence"),
                int(median(peaks[arm]) - median(peaks[STANDARD])) if peaks[arm] else None,
            )
        )
    return summaries


def table(summaries: Sequence[Summary]) -> str:
    """The summaries of one batch and context, for a terminal."""
    head = ["", "tokens/s", "ms/step", "ratio to standard [quartiles]", "mean [95 % interval]", "n", "explored"]
    head += ["latents read", "MiB at the peak"]
    lines = []
    for one in summaries:
        ratios = ["-", "-", "-"]
        if (found := one.ratios) is not None:
            ratios = [within(found.median, found.quartiles), within(found.mean, found.interval), str(found.n)]
        shares = ["-" if share is None else f"{share:.1%}" for share in (one.explored, one.read)]
        peak = "-" if one.added_peak_bytes is None else f"{one.added_peak_bytes / 2**20:+,.0f}"
        lines.append([one.arm, f"{one.tokens_per_s:.0f}", f"{one.ms_per_step:.2f}", *ratios, *shares, peak])
    return text_table(head, lines)


def as_json(summaries: Sequence[Summary]) -> dict[str, Any]:
    return {summary.arm: {k: v for k, v in asdict(summary).items() if k != "arm"} for summary in summaries}
