"""A reward that one process takes very long to compute in one step: until the watchdog has spoken of it."""

import os
import time
from pathlib import Path

from letters_reward import share_of_letters

SLOW_STEP, DEADLINE = 4, 300.0  # seconds


def share_of_letters_slowly(completions, trainer_state=None, **columns):
    if os.environ.get("RANK") == "1" and trainer_state is not None and trainer_state.global_step == SLOW_STEP - 1:
        log, end = Path(os.environ["WATCHED_LOG"]), time.monotonic() + DEADLINE
        while f"step {SLOW_STEP} has taken" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.2)
    return share_of_letters(completions)
