"""A server started for real, on a free loopback port, and ended with all its processes."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from subprocesses import BIN, ROOT

from led_rl.decoding import DecodingParams
from led_rl.engines.environment import CPU_ENVIRONMENT, LAUNCHED

SIZES = ("--max-model-len", "256", "--max-num-seqs", "64")
DEFAULT = DecodingParams("led", k=4, draw="marginal")  # one draw from mu, whose log-probability is then log mu


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment(**changes: str) -> dict[str, str]:
    """The environment of a user's shell: without what the test session itself has set for vLLM."""
    dropped = {*CPU_ENVIRONMENT, *LAUNCHED}
    kept = {name: value for name, value in os.environ.items() if name not in dropped and not name.startswith("LED_RL")}
    return kept | {"HF_HUB_OFFLINE": "1"} | changes


@contextmanager
def running(log: Path, *command: object, timeout: float = 300.0, **environment: str) -> Iterator[str]:
    """`http://127.0.0.1:PORT` of a server that answers /health; its output goes to `log` and into the failure."""
    port = free_port()
    arguments = [*map(str, command), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=clean_environment(**environment),
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + timeout
        while not healthy(url):
            assert process.poll() is None, f"the server ended\n{log.read_text(errors='replace')[-6000:]}"
            assert time.monotonic() < deadline, f"not ready in {timeout} s\n{log.read_text(errors='replace')[-6000:]}"
            time.sleep(0.3)
        yield url
    finally:
        end(process)


def generation_node(model: str, log: Path):
    """A server for openai clients and for TRL, whose default decoding is DEFAULT."""
    default = ",".join(f"{key}={value}" for key, value in DEFAULT.to_extra_args().items())
    command = [ROOT / "launch" / "serve_rollouts.sh", model, "--led-default", default, *SIZES]
    return running(log, *command, PATH=f"{BIN}:{os.environ['PATH']}")


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def end(process: subprocess.Popen) -> None:
    """Ends a process and its group: politely, then for good."""
    for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
