"""Says which process is in which stage when a step takes much longer than the steps before it."""

import json
import logging
import os
import statistics
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from accelerate.utils import broadcast_object_list
from torch.distributed import TCPStore
from transformers import TrainerCallback

from led_rl.training.step_clock import StepClock

POLL = 1.0  # seconds between two looks
SILENT = 15.0  # seconds without a sign of life that are worth a word
CONNECTING = 30.0  # seconds to reach the first process
logger = logging.getLogger(__name__)


class Watchdog(TrainerCallback):
    """A thread in each process, while the block runs: each tells its stage once a second, the first one's compares.

    Stages travel through a TCPStore of their own, beside the process group: no collective, and no work for a GPU.

    Args:
        factor: how many times the median of the steps so far a step may take; 0 is off, and starts no thread.
        floor: seconds that a step may take in any case. Before the first step is done, it stands for the median.
    """

    def __init__(self, clock: StepClock, accelerator: Any, factor: float, floor: float):
        self.clock, self.accelerator, self.factor, self.floor = clock, accelerator, factor, floor
        self._durations: list[float] = []
        self._step: tuple[int, float] | None = None  # number and begin of the step that is under way
        self._ended = threading.Event()

    def __enter__(self) -> None:
        if self.factor:
            self._durations, self._step, self._ended = [], None, threading.Event()
            threading.Thread(target=self._watch, args=(self._open_store(),), name="watchdog", daemon=True).start()

    def __exit__(self, *error: Any) -> None:
        self._ended.set()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step = (state.global_step + 1, time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._step is not None:
            self._durations.append(time.perf_counter() - self._step[1])
        self._step = None

    def _open_store(self) -> TCPStore | None:
        """The first process's store, reached from all; None if there is one process, or the first is out of reach."""
        if self.accelerator.num_processes == 1:
            return None
        host, limit = os.environ.get("MASTER_ADDR", "localhost"), timedelta(seconds=CONNECTING)
        first = self.accelerator.is_main_process
        store = TCPStore("localhost", 0, is_master=True, timeout=limit, wait_for_workers=False) if first else None
        port = [0 if store is None else store.port]
        broadcast_object_list(port, from_process=0)
        if store is None:
            try:
                return TCPStore(host, port[0], is_master=False, timeout=limit, wait_for_workers=False)
            except RuntimeError as error:
                rank = self.accelerator.process_index
                logger.warning(f"rank {rank} cannot tell the watchdog what it does: {host}:{port[0]}: {error}")
        return store

    def _watch(self, store: TCPStore | None) -> None:
        rank, ended = self.accelerator.process_index, self._ended
        seen: dict[int, tuple[Any, float]] = {}  # the last beat of each process, and when it came
        told, beat = (0, 0.0), 0  # step and seconds of the last word
        while not ended.wait(POLL):
            beat += 1
            stage, since = self.clock.stage
            mine = {"beat": beat, "stage": stage, "seconds": time.perf_counter() - since}
            try:
                if store is not None:
                    store.set(f"{rank}", json.dumps(mine))
                step = self._step
                if rank != 0 or step is None:
                    continue
                number, seconds = step[0], time.perf_counter() - step[1]
                usual = statistics.median(self._durations) if self._durations else self.floor
                again = 2 * told[1] if told[0] == number else 0.0
                if seconds > max(self.factor * usual, self.floor, again):
                    stages = {0: mine} if store is None else self._stages(store, seen)
                    logger.warning(describe(number, seconds, usual if self._durations else None, stages))
                    told = (number, seconds)
                elif store is not None:
                    self._stages(store, seen)
            except RuntimeError:  # the store went with the first process, which ends the run anyway
                return

    def _stages(self, store: TCPStore, seen: dict[int, tuple[Any, float]]) -> dict[int, dict[str, Any]]:
        """What each process last told; `silent`: seconds since it did, if that is long ago."""
        found: dict[int, dict[str, Any]] = {}
        told: dict[str, Any]
        now = time.monotonic()
        for rank in range(self.accelerator.num_processes):
            told = json.loads(store.get(f"{rank}")) if store.check([f"{rank}"]) else {"beat": 0, "stage": "unknown"}
            if rank not in seen or seen[rank][0] != told["beat"]:
                seen[rank] = (told["beat"], now)
            found[rank] = told | {"silent": now - seen[rank][1]}
        return found


def describe(step: int, seconds: float, median: float | None, stages: Mapping[int, Mapping[str, Any]]) -> str:
    """One line: those that others wait for come first."""
    groups: dict[str, list[int]] = {}
    for rank, told in stages.items():
        groups.setdefault(told["stage"], []).append(rank)
    parts = []
    for stage in sorted(groups, key=lambda stage: stage.startswith("waiting")):
        ranks = groups[stage]
        longest = max(stages[rank].get("seconds", 0.0) for rank in ranks)
        silent = [rank for rank in ranks if stages[rank].get("silent", 0.0) > SILENT]
        mute = f" (no sign of life from {', '.join(map(str, silent))})" if silent else ""
        parts.append(f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}: {stage} for {longest:.0f} s{mute}")
    usual = "the first step" if median is None else f"the median is {median:.1f} s"
    return f"step {step} has taken {seconds:.0f} s so far ({usual}): {'; '.join(parts)}"
