"""The environment in which vLLM and DeepSpeed work on a machine without GPUs."""

import importlib.util
import os
import socket
from pathlib import Path

# What a launcher tells a process; TRL and checked configs set it, too, and what is started next must not inherit that.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the default takes half of the memory
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine in this process: statistics and weights are read directly
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",  # trainer and engine share the cores: contended spinning threads are ten times slower
    "OMP_WAIT_POLICY": "PASSIVE",
    "TORCHDYNAMO_DISABLE": "1",  # compiling vLLM's log-probability ranks takes 17 s and a C++ compiler, to save 1 ms
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
}


def has_gpu() -> bool:
    """Whether this machine has GPUs; told without torch, which reads part of the environment when it is imported."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def meet_on_a_free_port() -> None:
    """Sets MASTER_ADDR and MASTER_PORT where they are not set, to a port that the system chooses.

    TRL tries 29500 first, binds it seconds later, and two runs that start together meet there.
    """
    os.environ["MASTER_ADDR"] = os.environ.get("MASTER_ADDR") or "localhost"
    if os.environ.get("MASTER_PORT", "") in ("", "0", "auto"):
        with socket.socket() as probe:
            probe.bind(("", 0))
            os.environ["MASTER_PORT"] = str(probe.getsockname()[1])


def set_cpu_environment() -> None:
    """Defaults for what is not set; call before torch and vLLM are imported."""
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def prepare_environment(**defaults: str) -> None:
    """What must be set before torch and vLLM are imported; on a machine with GPUs, next to nothing.

    Args:
        defaults: environment variables to set, where they are not set, before the others.
    """
    for name, value in {**defaults, "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ.setdefault(name, value)
    if not has_gpu():
        set_cpu_environment()


def prepare_training() -> None:
    """`prepare_environment`, and keeps DeepSpeed from compiling on a machine without GPUs."""
    prepare_environment()
    if not has_gpu() and importlib.util.find_spec("deepspeed") is not None:
        # DeepSpeed would compile its shared-memory collective for minutes, and a killed build hangs the next one.
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
