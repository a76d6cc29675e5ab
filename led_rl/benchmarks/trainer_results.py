"""What `led-rl benchmark-trainer` measures: blocks of steps, ratios to TRL's in the same round, and their table.

A round gives every arm the same work: the same training steps, on the same prompts, from the same random numbers. Two
trainers of TRL take part in it, built alike. A block of LEDGRPOTrainer is compared with the geometric mean of TRL's,
and TRL's with each other: that ratio is 1 but for noise, and its spread says what the machine can resolve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, geometric_mean, median
from typing import Any

from led_rl.benchmarks.ratios import Ratios, spread, within
from led_rl.terminal.tables import text_table

TRL, AGAIN, STANDARD = "trl", "trl_again", "led_trainer"
BASELINES = (TRL, AGAIN)
LIMIT = 1.01  # a step of LEDGRPOTrainer with standard decoding, over one of TRL's
PARTS = ("rollout", "reward", "weight_sync", "training", "other")


@dataclass(frozen=True)
class Step:
    """One optimizer step, from the beginning of it to the beginning of the next: logging it and loading data included.

    `split`: seconds of each of PARTS that was measured; `other` is the rest of `seconds`.
    """

    arm: str
    round: int  # -1: warm-up
    place: int  # of its block, in the order of its round
    number: int  # of the training run, from 0
    seconds: float
    tokens: int  # completion tokens of its rollout
    reward: float
    split: Mapping[str, float]


@dataclass(frozen=True)
class Summary:
    """Medians over the steps of one arm, and ratios over the rounds."""

    arm: str
    steps: int
    seconds: float
    tokens: float
    us_per_token: float
    split: dict[str, float]
    time: Ratios | None  # to TRL's; of `trl`: one trainer of TRL to the other
    time_per_token: Ratios | None
    same_tokens: float | None  # fraction of the steps that sampled as many tokens as TRL's step of the same number


def order_of_round(measured: Sequence[str], number: int) -> list[str]:
    """trl, A, trl_again, B, ...; every second round backwards, and A and B change places every two."""
    first = number // 2 % len(measured)
    one, *rest = [*measured[first:], *measured[:first]]
    order = [TRL, one, AGAIN, *rest]
    return order if number % 2 == 0 else order[::-1]


def round_ratios(steps: Sequence[Step], arm: str, per_token: bool = False) -> list[float]:
    """One ratio for each complete round: its time over TRL's (geometric mean of two); of `trl`, over its twin's."""
    ratios = []
    for number in sorted({step.round for step in steps if step.round >= 0}):
        times: dict[str, float] = {}
        for name in {arm, *BASELINES}:
            block = [step for step in steps if step.round == number and step.arm == name]
            tokens = sum(step.tokens for step in block) if per_token else len(block)
            if tokens:
                times[name] = sum(step.seconds for step in block) / tokens
        if len(times) == len({arm, *BASELINES}):
            ratios.append(
                times[arm] / (times[AGAIN] if arm == TRL else geometric_mean(times[name] for name in BASELINES))
            )
    return ratios


def summarise(steps: Sequence[Step]) -> list[Summary]:
    """One summary an arm, warm-up left out; TRL's twin is in its ratio alone."""
    measured = [step for step in steps if step.round >= 0]
    theirs = {step.number: step.tokens for step in measured if step.arm == TRL}
    summaries = []
    for arm in dict.fromkeys([TRL, *(step.arm for step in measured if step.arm != AGAIN)]):
        own = [step for step in measured if step.arm == arm]
        if not own:
            continue
        compared = [step.tokens == theirs[step.number] for step in own if arm != TRL and step.number in theirs]
        summaries.append(
            Summary(
                arm,
                len(own),
                median(step.seconds for step in own),
                median(step.tokens for step in own),
                1e6 * sum(step.seconds for step in own) / max(1, sum(step.tokens for step in own)),
                {part: median(step.split[part] for step in own) for part in PARTS if part in own[0].split},
                spread(round_ratios(steps, arm)),
                spread(round_ratios(steps, arm, per_token=True)),
                fmean(compared) if compared else None,
            )
        )
    return summaries


def table(summaries: Sequence[Summary]) -> str:
    """Time and ratios of each arm, then the split of its step, for a terminal."""
    head = ["", "s/step", "tokens", "us/token", "time / TRL's [quartiles]", "mean [95 % interval]"]
    head += ["per token [quartiles]", "n", "same"]
    lines, split = [], []
    for one in summaries:
        same = "-" if one.same_tokens is None else f"{one.same_tokens:.0%}"
        mean = "-" if one.time is None else within(one.time.mean, one.time.interval)
        ratios = [_ratio(one.time), mean, _ratio(one.time_per_token), str(one.time.n if one.time else 0)]
        lines.append([one.arm, f"{one.seconds:.2f}", f"{one.tokens:.0f}", f"{one.us_per_token:.1f}", *ratios, same])
        cells = [f"{one.split[p]:.3f} ({one.split[p] / one.seconds:.0%})" if p in one.split else "-" for p in PARTS]
        split.append([one.arm, *cells])
    return "\n".join(
        [
            text_table(head, lines),
            f"({TRL}: of its two trainers, one over the other: the noise. same: steps with as many tokens as TRL's)",
            "",
            text_table(["seconds (share)", *(part.replace("_", " ") for part in PARTS)], split),
            f"(other: logging and loading data; of {TRL}, whatever is not listed)",
        ]
    )


def _ratio(ratios: Ratios | None) -> str:
    return "-" if ratios is None else within(ratios.median, ratios.quartiles)


def as_json(summaries: Sequence[Summary]) -> dict[str, Any]:
    return {summary.arm: {k: v for k, v in asdict(summary).items() if k != "arm"} for summary in summaries}
