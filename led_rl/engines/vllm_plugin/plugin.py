"""Entry point of `vllm.general_plugins`: vLLM calls `register` in every one of its processes.

With `LED_RL_DEPTH` unset the models and the sampler stay vLLM's own; only submission is checked, so that a request that
asks for LED from an engine that cannot do it is an error and never standard decoding in silence. `LED_RL_DEFAULT`, a
JSON object of request keys, is the decoding of requests that name none.
"""

import os
from typing import Any

KNOWN_VERSIONS = ("0.26.0", "0.31.0")
DEFAULT_VARIABLE = "LED_RL_DEFAULT"


def register() -> None:
    """Installs LED in this process; may be called again, for instance after `LED_RL_DEPTH` was set.

    Raises:
        RuntimeError: this vLLM is not a version whose internals the plugin knows, or it would bypass the plugin.
    """
    import vllm

    if vllm.__version__.split("+")[0] not in KNOWN_VERSIONS:
        raise RuntimeError(
            f"led-rl knows vLLM {', '.join(KNOWN_VERSIONS)}, and this is {vllm.__version__}. "
            "Install a known version, or uninstall led-rl to use this one without LED."
        )
    _check_requests_at_submission()
    _check_requests_before_streaming()
    from led_rl.sampler.capture_options import EngineOptions

    if EngineOptions.from_environment().depth:
        if os.environ.get("VLLM_USE_RUST_FRONTEND", "0") != "0":
            raise RuntimeError("LED needs vLLM's Python front end, which checks requests: unset VLLM_USE_RUST_FRONTEND")
        _register_models()
        _install_sampler()
        _install_statistics()
        _keep_weights_on_cpu()


def _register_models() -> None:
    """Subclasses of vLLM's models that keep latent states; registration is vLLM's documented door.

    vLLM remembers the class of a model that it has built; after an engine without LED that would be its own.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.model_loader import utils

    from led_rl.engines.vllm_plugin.models import ARCHITECTURES

    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, f"led_rl.engines.vllm_plugin.models:LED{architecture}")
    utils._MODEL_ARCH_BY_HASH.clear()


def _install_sampler() -> None:
    """V1 runner: `LEDBatch` follows the batch as a logits processor does, `Sampler.sample` draws (see vllm_v1.py).

    The `vllm.logits_processors` entry point would do for the first half, but its presence alone raises under runner V2.
    """
    from vllm.v1.sample import logits_processor
    from vllm.v1.sample.sampler import Sampler
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from led_rl.engines.vllm_plugin import runner_v1 as vllm_v1

    if vllm_v1.LEDBatch not in logits_processor.BUILTIN_LOGITS_PROCESSORS:
        logits_processor.BUILTIN_LOGITS_PROCESSORS.append(vllm_v1.LEDBatch)
        Sampler.sample = vllm_v1.sample_with_led(Sampler.sample)  # type: ignore[method-assign]
        GPUModelRunner._prepare_inputs = vllm_v1.prepare_inputs_and_rows(GPUModelRunner._prepare_inputs)  # type: ignore[method-assign]


def _install_statistics() -> None:
    """Requests' statistics in their outputs and as Prometheus counters (see request_statistics.py)."""
    from led_rl.engines.vllm_plugin.request_statistics import install

    install()


def _keep_weights_on_cpu() -> None:
    """LED reads the LM head's weight, which the CPU backend would drop after packing it."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from led_rl.engines.environment import keep_weights_replaceable

        keep_weights_replaceable()


def _check_requests_at_submission() -> None:
    """Refuses what the engine cannot do where vLLM validates every request, offline and served alike (HTTP 400).

    Requests that name no decoding get the default one on the way there. Options and default are read when the engine
    is built: the environment may change before a later one is.
    """
    from vllm.v1.engine.input_processor import InputProcessor

    from led_rl.sampler.capture_options import EngineOptions

    build, validate = InputProcessor.__init__, InputProcessor._validate_params
    process = InputProcessor.process_inputs
    if hasattr(validate, "led_rl"):
        return

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        from led_rl.engines.vllm_plugin.submission import read_default

        build(self, *args, **kwargs)
        self.led_options = EngineOptions.from_environment()
        self.led_allowed = set()  # decodings that were checked
        self.led_default = read_default(self.led_options, self.vllm_config, self.tokenizer)

    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        from led_rl.engines.vllm_plugin.submission import with_default

        return process(self, request_id, prompt, with_default(params, self.led_default), *args, **kwargs)

    def _validate_params(self: Any, params: Any, supported_tasks: Any) -> None:
        validate(self, params, supported_tasks)
        if getattr(params, "extra_args", None):
            from led_rl.engines.vllm_plugin.submission import check_request

            check_request(params, self)

    _validate_params.led_rl = True  # type: ignore[attr-defined]
    InputProcessor.__init__ = __init__  # type: ignore[method-assign]
    InputProcessor._validate_params = _validate_params  # type: ignore[method-assign]
    InputProcessor.process_inputs = process_inputs  # type: ignore[method-assign]


def _check_requests_before_streaming() -> None:
    """Checks when the server asks for tokens, not when it awaits the first: a stream's HTTP status is sent in between.

    `AsyncLLM.generate` is an asynchronous generator, so that vLLM's own validation runs at the first step; a streaming
    client would get HTTP 200 and then the refusal as an event.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    start = AsyncLLM.generate
    if hasattr(start, "led_rl"):
        return

    def generate(self: Any, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        processor: Any = self.input_processor
        if getattr(sampling_params, "extra_args", None):
            from led_rl.engines.vllm_plugin.submission import check_request

            check_request(sampling_params, processor)
        return start(self, prompt, sampling_params, *args, **kwargs)

    generate.led_rl = True  # type: ignore[attr-defined]
    AsyncLLM.generate = generate  # type: ignore[method-assign]
