"""Running a command of the virtual environment, and showing its last lines where it fails."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from led_rl.engines.environment import LAUNCHED

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def clean_shell(**changes: str) -> dict[str, str]:
    """The environment of `env -i PATH HOME`, and what keeps a test offline: nothing that the test session has set."""
    path = f"{BIN}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": os.environ.get("HOME", "/"), "HF_HUB_OFFLINE": "1"} | changes


def probe_runner(probe: str, folder: Path, model: object, of_two: str) -> Callable[[str], Any]:
    """`run(job)`: what a job of tests/probes/PROBE.py saved, run once; the job `of_two` on two processes."""

    @cache
    def run(job: str) -> Any:
        import torch

        launcher = [BIN / "torchrun", "--nproc_per_node", "2", "--standalone"] if job == of_two else [sys.executable]
        run_command(*launcher, ROOT / "tests" / "probes" / f"{probe}.py", job, model, folder, timeout=600)
        return torch.load(folder / f"{job}.pt", weights_only=False)

    return run


def run_command(*arguments: object, timeout: float = 240.0, status: int = 0, **environment: str) -> str:
    """Output of a command in the repository root; an AssertionError with its tail if its exit status is another.

    A command that runs longer than `timeout` seconds is ended with all its children.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in LAUNCHED and not name.startswith(("ACCELERATE_", "TORCHELASTIC_", "LED_RL_"))
    }
    process = subprocess.Popen(
        [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=ROOT,
        env=kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # launchers then end their workers, which have sessions of their own
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    command = " ".join(map(str, arguments))
    assert process.returncode == status, f"{command}\nexit status {process.returncode}\n{output[-6000:]}"
    return output
