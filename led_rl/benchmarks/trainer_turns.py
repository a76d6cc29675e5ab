"""Trainers that take turns: each trains in a thread of its own, and but one of them runs at any time."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import set_seed
from transformers import TrainerCallback

from led_rl.benchmarks.trainer_results import BASELINES, PARTS, Step, summarise
from led_rl.terminal.progress_bar import progress_bar


class OverError(Exception):
    """Ends the training of a thread: there is no turn left for it."""


class Turns:
    """Who may run, turn by turn, each (round, arm); and the steps that were taken."""

    def __init__(self, order: Sequence[tuple[int, str]]):
        self.order = order
        self.now = 0
        self.steps: list[Step] = []
        self.error: BaseException | None = None
        self.between: Callable[[], None] = lambda: None  # done between two turns, while nobody runs
        self.changed = threading.Condition()

    def over(self) -> bool:
        return self.now >= len(self.order)

    def wait_for(self, arm: str) -> int:
        """The number of the turn, once it is this arm's; raises OverError if none is left."""
        with self.changed:
            self.changed.wait_for(lambda: self.over() or self.order[self.now][1] == arm)
            if self.over():
                raise OverError
            return self.now

    def pass_on(self, steps: Sequence[Step]) -> None:
        with self.changed:
            self.steps += steps
            self.between()
            self.now += 1
            self.changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        with self.changed:
            self.error = self.error or error
            self.now = len(self.order)
            self.changed.notify_all()


class Stopwatch(TrainerCallback):
    """Lets a trainer train in its turns alone, `block` steps each, and measures every step to the next one's beginning.

    Must be the first callback, so that time spent waiting for a turn is not counted and the other callbacks' time is.
    """

    def __init__(self, arm: str, trainer: Any, turns: Turns, block: int):
        self.arm, self.trainer, self.turns, self.block = arm, trainer, turns, block
        self.arms = len({name for _, name in turns.order})
        self.turn: int | None = None
        self.steps: list[Step] = []
        self.started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.turn is not None:
            self.steps.append(self.measured(_now() - self.started, self.turn))
            if len(self.steps) == self.block:
                self.turns.pass_on(self.steps)
                self.turn, self.steps = None, []
        if self.turn is None:
            self.turn = self.turns.wait_for(self.arm)
        set_seed(args.seed + state.global_step)  # the same draws for every trainer's step of this number
        self.started = _now()

    def measured(self, seconds: float, turn: int) -> Step:
        """The step that has just ended: it is the last that was logged."""
        state, args = self.trainer.state, self.trainer.args
        logs = state.log_history[-1]
        if logs["step"] != state.global_step:
            raise RuntimeError(f"{self.arm}: step {state.global_step} was not logged")
        split = {part: logs[f"time/{part}"] for part in PARTS if f"time/{part}" in logs}
        if self.arm in BASELINES and hasattr(self.trainer.vllm_generation, "take_seconds"):
            split = dict(zip(("rollout", "weight_sync"), self.trainer.vllm_generation.take_seconds(), strict=True))
        split["other"] = seconds - sum(split.values())
        # TRL logs the mean over the rollouts of the step: one, several, or, where a former one serves, none
        serves = args.steps_per_generation * args.num_iterations
        completions = args.generation_batch_size * max(1, args.gradient_accumulation_steps // serves)
        tokens = round(logs.get("completions/mean_length", 0.0) * completions)
        round_number, number = self.turns.order[turn][0], state.global_step - 1
        reward = float(logs.get("reward", 0.0))
        return Step(self.arm, round_number, turn % self.arms, number, seconds, tokens, reward, split)


def take_turns(trainers: Mapping[str, Any], turns: Turns, block: int, save: Callable[[Sequence[Step]], None]) -> bool:
    """Trains until the turns are over, saving as steps come in; False if interrupted, an error of a trainer raises."""

    def train(trainer: Any) -> None:
        try:
            trainer.train()
            raise RuntimeError(f"training stopped by itself at step {trainer.state.global_step}")
        except OverError:
            pass
        except BaseException as error:
            turns.end(error)

    threads = []
    for arm, trainer in trainers.items():
        trainer.callback_handler.callbacks.insert(0, Stopwatch(arm, trainer, turns, block))
        threads.append(threading.Thread(target=train, args=(trainer,), name=arm, daemon=True))
    whole = True
    with progress_bar(len(turns.order), "benchmark", "turn") as bar:

        def between() -> None:
            save(turns.steps)
            bar.advance(note=_ratios_so_far(turns.steps))

        turns.between = between
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            try:
                for thread in threads:
                    thread.join()
            except KeyboardInterrupt:
                whole = False
                bar.write(
                    f"interrupted: the step of {turns.order[min(turns.now, len(turns.order) - 1)][1]} is the last"
                )
                turns.end()
    if turns.error is not None:
        raise turns.error
    return whole


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _ratios_so_far(steps: Sequence[Step]) -> str:
    return ", ".join(f"{one.arm} {one.time.median:.3f}" for one in summarise(steps) if one.time)
