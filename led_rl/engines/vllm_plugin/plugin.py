"""Entry point of `vllm.general_plugins`, and every patch of vLLM: what is replaced, which symptom and cause it has.

vLLM calls `register` in every one of its processes. With `LED_RL_DEPTH` unset the models and the sampler stay vLLM's
own; only submission is checked, so that a request that asks for LED from an engine that cannot do it is an error and
never standard decoding in silence. Each patch raises RuntimeError when what it replaces is gone.
"""

import importlib
import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

from led_rl.sampler.capture_options import EngineOptions

KNOWN_VERSIONS = ("0.26.0", "0.31.0")
ENDS_A_SERVER = {  # modules of vllm.entrypoints that name `terminate_if_errored`
    "0.26.0": ("launcher", "serve.utils.server_utils"),
    "0.31.0": ("launchers.launcher", "serve.exception_handling.handlers.vllm_error"),
}
SOURCE = "https://github.com/vllm-project/vllm/blob/v0.31.0/vllm"  # what the patches below were read against


def register() -> None:
    """Installs LED in this process; may be called again, for instance after `LED_RL_DEPTH` was set.

    Raises:
        RuntimeError: this vLLM is not a version whose internals the plugin knows, or it would bypass the plugin.
    """
    import vllm

    version = vllm.__version__.split("+")[0]
    if version not in KNOWN_VERSIONS:
        raise RuntimeError(
            f"led-rl knows vLLM {', '.join(KNOWN_VERSIONS)}, and this is {vllm.__version__}. "
            "Install a known version, or uninstall led-rl to use this one without LED."
        )
    try:
        _install(version)
    except ImportError as error:
        raise RuntimeError(f"led-rl changes parts of vLLM that {vllm.__version__} lacks: {error}") from error


def _install(version: str) -> None:
    check_requests_at_submission()
    check_requests_before_streaming()
    refuse_beam_search()
    options = EngineOptions.from_environment()
    if not options.depth:
        return
    if os.environ.get("VLLM_USE_RUST_FRONTEND", "0") != "0":
        raise RuntimeError("LED needs vLLM's Python front end, which checks requests: unset VLLM_USE_RUST_FRONTEND")
    if options.support and version == "0.26.0":
        raise RuntimeError(
            "this vLLM (0.26.0) cannot hand on which ids a token could have been, which train_support: sampled needs. "
            "Install vLLM 0.31.0, or train with train_support: vocabulary"
        )
    register_models()
    draw_in_runner_v1()
    hand_on_statistics()
    keep_logprobs_numbers()
    keep_changed_blocks_apart()
    remember_preempted_requests()
    raise_after_an_error()
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        keep_weights_replaceable()
        empty_llvmlite_library()


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Puts `make(original)` in the place of `owner.name`, once; raises RuntimeError if there is no such name."""
    original = named(owner, name)
    if hasattr(original, "led_rl"):
        return
    replacement = make(original)
    replacement.led_rl = True
    setattr(owner, name, replacement)


def named(owner: Any, name: str) -> Any:
    """`owner.name`, which a patch replaces or changes; raises RuntimeError if there is no such name."""
    if not hasattr(owner, name):
        raise RuntimeError(
            f"led-rl changes {owner.__name__}.{name} of vLLM, and this vLLM has no such name: led-rl knows vLLM "
            f"{', '.join(KNOWN_VERSIONS)}"
        )
    return getattr(owner, name)


def register_models() -> None:
    """Registers subclasses of vLLM's models that keep latent states; registration is vLLM's documented door.

    Symptom: an engine with LED that follows one without it in the same process keeps no states. Cause: vLLM remembers
    the class of a model that it has built. See SOURCE/model_executor/model_loader/utils.py.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.model_loader import utils

    from led_rl.engines.vllm_plugin.architectures import ARCHITECTURES

    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, f"led_rl.engines.vllm_plugin.models:LED{architecture}")
    named(utils, "_MODEL_ARCH_BY_HASH").clear()


def draw_in_runner_v1() -> None:
    """Runner V1: `LEDBatch` follows the batch as a logits processor does, and `Sampler.sample` draws LED rows.

    Symptom: the official door, the entry point `vllm.logits_processors`, cannot be used. Cause: its presence alone
    raises under runner V2, and a logits processor sees neither the latent states nor may it draw. See
    SOURCE/v1/sample/logits_processor/__init__.py and v1/sample/sampler.py.
    """
    from vllm.v1.sample import logits_processor
    from vllm.v1.sample.sampler import Sampler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from led_rl.engines.vllm_plugin.runner_v1 import LEDBatch, prepare_inputs_and_rows, sample_with_led

    processors = named(logits_processor, "BUILTIN_LOGITS_PROCESSORS")
    if LEDBatch not in processors:
        processors.append(LEDBatch)
    replace(Sampler, "sample", sample_with_led)
    replace(GPUModelRunner, "_prepare_inputs", prepare_inputs_and_rows)


def hand_on_statistics() -> None:
    """Requests' statistics in their outputs and as Prometheus counters, and the supports of their tokens.

    Symptom: what a sampler knows beside tokens and log-probabilities ends in the worker. Cause: `ModelRunnerOutput` has
    no field for it, and vLLM's own sampling masks (PR #49577) are refused under runner V1. See
    SOURCE/v1/outputs.py and config/vllm.py (`_verify_sampling_replay_config`).
    """
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.output_processor import OutputProcessor
    from vllm.v1.worker.gpu_worker import Worker

    from led_rl.engines.vllm_plugin.request_statistics import (
        hand_sums_on,
        name_and_count,
        register_counters,
        sample_tokens_and_sums,
    )

    replace(Worker, "sample_tokens", sample_tokens_and_sums)
    replace(Scheduler, "update_from_output", hand_sums_on)
    replace(OutputProcessor, "process_outputs", name_and_count)
    replace(OutputProcessor, "__init__", register_counters)


def keep_logprobs_numbers() -> None:
    """A standard row whose logits are no distribution has log-probabilities of -inf, which a server writes as -9999.

    Symptom: a request that asks for log-probabilities of such a row (all tokens masked) is HTTP 400 "Out of range float
    values are not JSON compliant". Cause: they are NaN, and JSON has none. See SOURCE/v1/engine/logprobs.py. Rows that
    LED draws have a log-probability of 0 there (led_rl/sampler/final_layer.py).
    """
    import numpy as np
    from vllm.v1.engine.logprobs import LogprobsProcessor

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def _update_sample_logprobs(self: Any, logprobs_lists: Any) -> Any:
            if np.isnan(logprobs_lists.logprobs).any():
                known = [np.where(np.isnan(row), -np.inf, row) for row in logprobs_lists.logprobs]
                logprobs_lists = logprobs_lists._replace(logprobs=known)
            return original(self, logprobs_lists)

        return _update_sample_logprobs

    replace(LogprobsProcessor, "_update_sample_logprobs", make)


def keep_changed_blocks_apart() -> None:
    """Prefix caching: blocks with generated tokens of a request that changes forward passes serve that request alone.

    Symptom: a request whose prompt reads as such a request's text would go on from other states than its own. Cause: a
    block of the cache is found by its token ids. The blocks of the prompt stay shared. See
    SOURCE/v1/core/kv_cache_utils.py.
    """
    from vllm.v1.core import block_pool, kv_cache_utils

    from led_rl.engines.vllm_plugin.block_keys import with_request_of_changed_passes

    for module in (kv_cache_utils, block_pool):
        replace(module, "generate_block_hash_extra_keys", with_request_of_changed_passes)


def remember_preempted_requests() -> None:
    """Runner V2: what a request's forward passes were given is kept until it ends.

    Symptom: a preempted request could not be computed anew as it was. Cause: a `ModelState` is told that a request
    left, but not whether it ended. See SOURCE/v1/worker/gpu/model_runner.py.
    """
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner

    from led_rl.engines.vllm_plugin.changed_passes import forget_finished

    replace(GPUModelRunner, "finish_requests", forget_finished)


def keep_weights_replaceable() -> None:
    """Makes CPU linear layers read `layer.weight` at every call; call before the engine is built.

    Symptom: loading new weights crashes in float32, or the engine goes on with the old ones without a word. Cause: the
    CPU backend packs linear weights once at load and may drop the original. A trainer replaces weights at every step,
    and LED reads the LM head's. See SOURCE/model_executor/layers/utils.py (`dispatch_cpu_unquantized_gemm`).
    """
    import torch
    from vllm.model_executor.layers import utils

    def read_live_weight(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    replace(utils, "dispatch_cpu_unquantized_gemm", lambda original: read_live_weight)


def tell_of_a_dead_engine(tell: Callable[[], None]) -> None:
    """Calls `tell` when an engine that died ends its server.

    Symptom: a server whose engine died exits with status 0, so that what started it sees success. Cause: the front end
    ends as if it had been asked to. An output handler that a shutdown cancelled is no death. See
    SOURCE/entrypoints/launchers/launcher.py (`terminate_if_errored`).
    """
    import vllm

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def terminate_if_errored(server: Any, engine: Any) -> None:
            original(server, engine)
            handler = getattr(engine, "output_handler", None)
            if engine.errored and not engine.is_running and not (handler is not None and handler.cancelled()):
                tell()

        return terminate_if_errored

    for module in ENDS_A_SERVER[vllm.__version__.split("+")[0]]:
        replace(importlib.import_module(f"vllm.entrypoints.{module}"), "terminate_if_errored", make)


def raise_after_an_error() -> None:
    """An engine in this process that failed in a step raises at every later one.

    Symptom: after an error `LLM.generate` spins for ever, whatever it is asked. Cause: the scheduler waits for the
    tokens of the step that failed, and nothing marks the engine as dead, as its own process would be. See
    SOURCE/v1/engine/core_client.py.
    """
    from vllm.v1.engine.core_client import InprocClient

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_output(self: Any) -> Any:
            if (error := vars(self).get("led_error")) is not None:
                raise RuntimeError(
                    f"this engine ended with an error at an earlier step; build another. The error: {error!r}"
                ) from error
            try:
                return original(self)
            except Exception as error:
                self.led_error = error
                raise

        return get_output

    replace(InprocClient, "get_output", make)


def empty_llvmlite_library() -> None:
    """Gives llvmlite's library object an empty instance dict.

    Symptom: an engine's start ends in an AttributeError once numba is imported. Cause: vLLM's CPU platform looks into
    the dicts of everything that any module holds, and llvmlite's library answers even that name with a symbol. See
    SOURCE/triton_utils/dispatcher.py.
    """
    from llvmlite.binding import ffi

    plain: Any = type(ffi.lib)
    if not hasattr(plain, "led_rl"):
        empty = property(lambda self: {})
        ffi.lib.__class__ = type("Library", (plain,), {"__slots__": (), "__dict__": empty, "led_rl": True})


def check_requests_at_submission() -> None:
    """Refuses what the engine cannot do where vLLM validates every request, offline and served alike (HTTP 400).

    Symptom: a request that asks for LED from an engine without it is decoded as usual. Cause: vLLM reads no key of
    `extra_args`. Options and default decoding are read when the engine is built: the environment may change before a
    later one is. See SOURCE/v1/engine/input_processor.py.
    """
    from vllm.v1.engine.input_processor import InputProcessor

    from led_rl.engines.vllm_plugin.submission import give_default, read_options, validate

    replace(InputProcessor, "__init__", read_options)
    replace(InputProcessor, "process_inputs", give_default)
    replace(InputProcessor, "_validate_params", validate)


def check_requests_before_streaming() -> None:
    """Checks when the server asks for tokens, not when it awaits the first: a stream's HTTP status is sent in between.

    Symptom: a streaming client gets HTTP 200 and then the refusal as an event. Cause: `AsyncLLM.generate` is an
    asynchronous generator, so that vLLM's own validation runs at its first step. See SOURCE/v1/engine/async_llm.py.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    from led_rl.engines.vllm_plugin.submission import check_before_streaming

    replace(AsyncLLM, "generate", check_before_streaming)


def refuse_beam_search() -> None:
    """`LLM.beam_search` is refused by an engine with a default decoding; over HTTP request_bodies.py refuses it.

    Symptom: the beams follow LED's log-probabilities, although the caller asked for the model's. Cause: each step of a
    beam is a request that names no decoding. See SOURCE/entrypoints/generate/beam_search/offline.py.
    """
    from vllm import LLM

    from led_rl.engines.vllm_plugin.submission import check_no_default

    replace(LLM, "beam_search", check_no_default)


def keep_over_sleep(model: Any, tensors: dict[str, Tensor]) -> None:
    """Registers tensors as the model's buffers, and spares them when weights are reloaded.

    Symptom: after a sleep of level 2 LED's tables hold garbage, or reloading weights misses them in the checkpoint.
    Cause: that sleep keeps a model's buffers and throws away the rest of its memory, and reloading expects every buffer
    but those that it names. See SOURCE/model_executor/model_loader/reload/meta.py.
    """
    import vllm.model_executor.model_loader.reload.meta as reload_meta

    for name, tensor in tensors.items():
        model.register_buffer(name, tensor, persistent=False)
    named(reload_meta, "SKIP_TENSORS").update(tensors)
    if hasattr(reload_meta, "SKIP_LOAD_TENSORS"):  # vLLM 0.26 has the first alone
        reload_meta.SKIP_LOAD_TENSORS.update(tensors)
