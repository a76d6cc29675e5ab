"""How a run ends before its time: SIGTERM saves and stops, and a launcher that dies takes its processes along."""

import ctypes
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOPPED = 128 + signal.SIGTERM  # exit status of a run that SIGTERM stopped, its state saved
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ONE_ORDER = 5.0  # seconds
LAUNCHERS = ("accelerate", "torchrun", "torch.distributed", "deepspeed")


@contextmanager
def stop_on_sigterm(request: Callable[[], None]) -> Iterator[None]:
    """While open, the first SIGTERM calls `request`; another one after ONE_ORDER ends the process at once.

    One order to stop may arrive several times: Linux sends PR_SET_PDEATHSIG for each thread of a dying launcher that
    was the parent in turn, and job managers signal a group whose launcher passes the signal on.
    """
    ordered = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal ordered
        now = time.monotonic()
        if ordered is not None:
            if now - ordered > ONE_ORDER:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)
            return
        ordered = now
        print("SIGTERM: saving after this step, then stopping", file=sys.stderr, flush=True)
        request()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        # The order may be repeated while the process ends, when Python would put the default in a handler's place.
        signal.signal(signal.SIGTERM, before if ordered is None else signal.SIG_IGN)


def end_with_launcher(parent: int) -> None:
    """Asks Linux for SIGTERM when the process `parent` dies, if that is a launcher; a shell may die without harm.

    Killed with SIGKILL, `accelerate launch` and `torchrun` would leave processes behind that go on training.
    """
    try:
        command = Path(f"/proc/{parent}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if any(launcher in command for launcher in LAUNCHERS):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
