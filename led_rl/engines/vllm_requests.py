"""What a vLLM engine refuses at submission, with the reason."""

from typing import Any

from vllm.exceptions import VLLMValidationError

from led_rl.decoding import DecodingError, DecodingParams
from led_rl.engines.vllm_models import ARCHITECTURES, DEPTH_VARIABLE, EngineOptions
from led_rl.thinking import MissingMarkersError, ThinkMarkers


def check_request(params: Any, options: EngineOptions, vllm_config: Any, tokenizer: Any) -> None:
    """Raises VLLMValidationError if the request's `led*` keys are wrong, or ask for what this engine cannot do."""
    try:
        decoding = DecodingParams.from_extra_args(params.extra_args)
        if not decoding.is_standard:
            check_engine(decoding, options, vllm_config)
            check_markers(decoding, tokenizer)
    except (DecodingError, MissingMarkersError) as error:
        raise VLLMValidationError(str(error), parameter="extra_args") from error


def check_engine(decoding: DecodingParams, options: EngineOptions, vllm_config: Any) -> None:
    """Raises DecodingError with the first reason why an engine of this configuration cannot decode so."""
    model_config = vllm_config.model_config
    parallel = vllm_config.parallel_config
    architecture = (model_config.architectures or ["unknown"])[0]
    if not options.depth:
        raise DecodingError(
            f"decoding {decoding.decoding!r} asked of an engine that was started without LED: set {DEPTH_VARIABLE} to "
            "the largest depth that requests may ask for before the engine starts"
        )
    refusals = {
        f"LED supports the architectures {', '.join(ARCHITECTURES)}; this model is {architecture}": architecture
        not in ARCHITECTURES,
        "LED runs in vLLM's V1 model runner; start the engine with VLLM_USE_V2_MODEL_RUNNER=0": (
            vllm_config.use_v2_model_runner
        ),
        "LED does not work with speculative decoding: draft tokens are verified against the final layer": (
            vllm_config.speculative_config is not None
        ),
        "LED does not work with LoRA adapters in the engine": vllm_config.lora_config is not None,
        "LED does not work with pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "LED does not work with enable_batch_sharded_sampling": parallel.enable_batch_sharded_sampling,
    }
    for reason, applies in refusals.items():
        if applies:
            raise DecodingError(reason)
    num_layers = model_config.hf_text_config.num_hidden_layers
    captured = options.captured_layers(num_layers)
    if missing := [layer for layer in decoding.layers(num_layers) if layer not in captured]:
        raise DecodingError(
            f"the request reads layers {missing}, but this engine captures {list(captured)} "
            f"({DEPTH_VARIABLE}={options.depth}); lower led_depth or start the engine with a larger {DEPTH_VARIABLE}"
        )


def check_markers(decoding: DecodingParams, tokenizer: Any) -> None:
    if decoding.think_only:
        if tokenizer is None:
            raise DecodingError("led_think_only needs the tokenizer's think tokens; skip_tokenizer_init must be off")
        ThinkMarkers.from_tokenizer(tokenizer)
