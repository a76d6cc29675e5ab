"""Running a command of the virtual environment, and showing its last lines where it fails."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run_command(*arguments: object, timeout: float = 400.0, status: int = 0, **environment: str) -> str:
    """Output of a command in the repository root; an AssertionError with its tail if its exit status is another."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in DISTRIBUTED and not name.startswith(("ACCELERATE_", "TORCHELASTIC_", "LED_RL_"))
    }
    done = subprocess.run(
        [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        cwd=ROOT,
        env=kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
    )
    command = " ".join(map(str, arguments))
    assert done.returncode == status, f"{command}\nexit status {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout
