"""Entry point of `vllm.general_plugins`: vLLM calls `register` in every one of its processes.

With `LED_RL_DEPTH` unset the models and the sampler stay vLLM's own; only submission is checked, so that a request that
asks for LED from an engine that cannot do it is an error and never standard decoding in silence.
"""

from typing import Any

KNOWN_VERSIONS = ("0.31.0",)


def register() -> None:
    """Installs LED in this process; may be called again, for instance after `LED_RL_DEPTH` was set.

    Raises:
        RuntimeError: this vLLM is not a version whose internals the plugin knows.
    """
    import vllm

    if vllm.__version__.split("+")[0] not in KNOWN_VERSIONS:
        raise RuntimeError(
            f"led-rl knows vLLM {', '.join(KNOWN_VERSIONS)}, and this is {vllm.__version__}. "
            "Install a known version, or uninstall led-rl to use this one without LED."
        )
    _check_requests_at_submission()
    from led_rl.engines.vllm_models import EngineOptions

    if EngineOptions.from_environment().depth:
        _register_models()
        _install_sampler()


def _register_models() -> None:
    """Subclasses of vLLM's models that hand latent states on; registration is vLLM's documented door."""
    from vllm import ModelRegistry

    from led_rl.engines.vllm_models import ARCHITECTURES

    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, f"led_rl.engines.vllm_models:LED{architecture}")


def _install_sampler() -> None:
    """V1 runner: `LEDBatch` follows the batch as a logits processor does, `Sampler.sample` draws.

    The `vllm.logits_processors` entry point would do for the first half, but its presence alone raises under runner V2.
    """
    from vllm.v1.sample import logits_processor
    from vllm.v1.sample.sampler import Sampler

    from led_rl.engines import vllm_v1

    if vllm_v1.LEDBatch not in logits_processor.BUILTIN_LOGITS_PROCESSORS:
        logits_processor.BUILTIN_LOGITS_PROCESSORS.append(vllm_v1.LEDBatch)
        Sampler.sample = vllm_v1.sample_with_led(Sampler.sample)  # type: ignore[method-assign]


def _check_requests_at_submission() -> None:
    """Refuses what the engine cannot do where vLLM validates every request, offline and served alike (HTTP 400).

    The options are read when the engine is built: the environment may change before a later one is.
    """
    from vllm.v1.engine.input_processor import InputProcessor

    from led_rl.engines.vllm_models import EngineOptions

    build, validate = InputProcessor.__init__, InputProcessor._validate_params
    if hasattr(validate, "led_rl"):
        return

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.led_options = EngineOptions.from_environment()

    def _validate_params(self: Any, params: Any, supported_tasks: Any) -> None:
        validate(self, params, supported_tasks)
        if getattr(params, "extra_args", None):
            from led_rl.engines.vllm_requests import check_request

            check_request(params, self.led_options, self.vllm_config, self.tokenizer)

    _validate_params.led_rl = True  # type: ignore[attr-defined]
    InputProcessor.__init__ = __init__  # type: ignore[method-assign]
    InputProcessor._validate_params = _validate_params  # type: ignore[method-assign]
