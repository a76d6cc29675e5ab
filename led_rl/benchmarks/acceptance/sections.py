"""The sections of the acceptance: what each asserts, how long it may take, and what it needs of the machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from led_rl.engines.environment import CPU_ENVIRONMENT, has_gpu
from led_rl.engines.self_check import RUNNER_VARIABLE

PACKAGE = "led_rl.benchmarks.acceptance"


@dataclass(frozen=True)
class Section:
    """One worker process.

    Attributes:
        name: as `--sections` takes it.
        about: what it asserts, in a few words.
        function: `module:function` of this package: takes the settings as keywords, yields a `Check` at a time.
        seconds: that it may take at most; beyond them it is stopped, and has failed.
        least: seconds of the whole run that must be left, or it is not begun.
        alone: nothing else may run meanwhile, as it measures time, or the device's free memory.
    """

    name: str
    about: str
    function: str
    seconds: float
    least: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False

    def missing(self) -> str | None:
        """Why this machine cannot run it; None if it can."""
        if has_gpu():
            if self.name == "tensor-parallel" and gpus() < 2:
                return "needs two GPUs"
            return None
        if self.settings.get("runner") == 2:
            return "runner V2 is written in Triton, which needs a GPU"
        if self.name == "wide":
            return "a model of this size takes minutes on a CPU"
        return None

    def environment(self) -> dict[str, str]:
        """Variables of the worker process, in addition to this process's own."""
        # its engine lies in its process, so that what LED drew can be read
        changes = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        changes |= {"VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        if not has_gpu():
            changes |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": CPU_ENVIRONMENT["OMP_WAIT_POLICY"]}
            changes["TORCHDYNAMO_DISABLE"] = str(int(self.settings.get("eager", True)))
        else:
            if runner := self.settings.get("runner"):
                changes[RUNNER_VARIABLE] = str(runner - 1)
            if not self.alone:  # others run beside it
                changes |= {"OMP_NUM_THREADS": "4", "TORCHINDUCTOR_COMPILE_THREADS": "4"}
        if self.name == "tensor-parallel":
            changes["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # sends its workers the functions that look into them
        return changes


def gpus() -> int:
    """Number of NVIDIA GPUs, counted from /dev, since this module must not import torch."""
    return sum(path.name.removeprefix("nvidia").isdecimal() for path in Path("/dev").glob("nvidia*"))


def _engines() -> list[Section]:
    sections = []
    for runner, eager, dtype in (
        (2, False, "bfloat16"),
        (2, False, "float32"),
        (1, False, "bfloat16"),
        (1, True, "float32"),
        (2, True, "float32"),
        (2, True, "bfloat16"),
        (1, True, "bfloat16"),
        (1, False, "float32"),
    ):
        mode = "eager" if eager else "compiled"
        sections.append(
            Section(
                f"v{runner}-{mode}-{dtype}",
                f"runner V{runner}, {'eager' if eager else 'torch.compile and CUDA graphs'}, {dtype}: latent tables "
                "and log-probabilities against transformers; tokens follow mu",
                "engine_checks:engine",
                240 if eager else 300,
                30,
                {"runner": runner, "eager": eager, "dtype": dtype},
            )
        )
    return sections


SECTIONS = {
    section.name: section
    for section in (
        Section("installation", "versions, plugin, variables, device", "engine_checks:installation", 90, 10),
        *_engines(),
        Section(
            "wide",
            "the same at Qwen3-4B's width and vocabulary, bfloat16, as vLLM starts it",
            "engine_checks:engine",
            300,
            60,
            {"runner": 2, "eager": False, "dtype": "bfloat16", "wide": True},
        ),
        Section(
            "mixed-batches",
            "standard rows beside LED rows: bit-identical to a batch without LED, and to vLLM without LED",
            "state_checks:mixed_batches",
            240,
            40,
        ),
        Section(
            "preemption",
            "a tiny key-value cache: chunked prefill, preempted and resumed requests agree with transformers",
            "state_checks:preemption",
            240,
            30,
        ),
        Section(
            "weights",
            "weight sync as a trainer does it: equal to an engine started from those weights, and back",
            "state_checks:weights",
            240,
            40,
        ),
        # alone, as vLLM asserts that sleeping frees memory of the device
        Section(
            "sleep",
            "sleep of level 1 and 2, wake, reload: nothing is lost",
            "state_checks:sleep",
            240,
            30,
            alone=True,
        ),
        Section(
            "tensor-parallel",
            "two ranks draw the same tokens from the same bits, and agree with transformers",
            "parallel_checks:tensor_parallel",
            300,
            50,
        ),
        Section("memory", "what LED holds is what docs/performance.md states", "memory_checks:memory", 240, 30),
        Section("kernels", "the kernels of a decoding step, by decoding", "kernel_checks:kernels", 240, 40, alone=True),
        Section(
            "throughput",
            "tokens/s of standard, control, coin and marginal over batches and contexts, beside the cost model",
            "speed_checks:throughput",
            420,
            60,
            alone=True,
        ),
    )
}
