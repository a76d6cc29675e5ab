"""vLLM's CPU backend, made usable for training: environment, and weights that can be replaced."""

import os
from pathlib import Path

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


def set_cpu_environment() -> None:
    """Defaults for what is not set; call before torch and vLLM are imported."""
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def keep_weights_replaceable() -> None:
    """Makes CPU linear layers read `layer.weight` at every call; call before the engine is built.

    vLLM's CPU backend packs linear weights once at load (`dispatch_cpu_unquantized_gemm`) and may drop the original.
    Loading new weights afterwards crashes in float32, or leaves the packed copy stale, so that the engine samples from
    old weights without a word. A trainer replaces weights at every step.
    """
    import torch
    from vllm.model_executor.layers import utils

    def read_live_weight(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    utils.dispatch_cpu_unquantized_gemm = read_live_weight
