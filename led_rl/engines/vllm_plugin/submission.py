"""What a vLLM engine refuses at submission, with the reason, and the decoding of requests that name none."""

import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

from led_rl.decoding import PREFIX, DecodingError, DecodingParams, decoding_of, is_tied
from led_rl.engines.vllm_plugin.architectures import ARCHITECTURES
from led_rl.engines.vllm_plugin.changed_pass_checks import check_changed_passes, check_cold_stop
from led_rl.sampler.capture_options import (
    BASELINES_VARIABLE,
    DEFAULT_VARIABLE,
    DEPTH_VARIABLE,
    MAX_K_VARIABLE,
    EngineOptions,
    admitting,
)
from led_rl.thinking import MissingMarkersError, ThinkMarkers

MOST_REMEMBERED = 4096  # decodings: clients choose their markers


def check_request(params: Any, processor: Any) -> None:
    """Raises VLLMValidationError if the request's `led*` keys are wrong, or ask for what the engine cannot do.

    `processor`: vLLM's InputProcessor, which remembers what was found right: many requests ask for the same.
    """
    try:
        decoding = decoding_of(with_depth(params.extra_args, processor.led_options))
        if decoding.is_standard or decoding in processor.led_allowed:
            return
        check_engine(decoding, processor.led_options, processor.vllm_config)
        check_markers(decoding, processor.tokenizer)
    except (DecodingError, MissingMarkersError) as error:
        raise VLLMValidationError(str(error), parameter="extra_args") from error
    if len(processor.led_allowed) < MOST_REMEMBERED:
        processor.led_allowed.add(decoding)


def read_default(options: EngineOptions, vllm_config: Any, tokenizer: Any) -> dict[str, Any]:
    """The request keys of LED_RL_DEFAULT; called when an engine is built, before its weights are loaded.

    Raises:
        DecodingError: the keys are wrong, or they or the options ask for what this engine cannot do.
    """
    model_config = vllm_config.model_config
    if options.depth and (model_config.architectures or [None])[0] in ARCHITECTURES:
        try:
            text = model_config.hf_text_config
            options.captured_layers(text.num_hidden_layers, is_tied(text))
        except ValueError as error:
            raise DecodingError(str(error)) from error
    text = os.environ.get(DEFAULT_VARIABLE, "")
    try:
        default = json.loads(text or "{}")
        if not isinstance(default, dict):
            raise DecodingError("it is not a JSON object")
        if stray := [key for key in default if not is_led_key(key)]:
            raise DecodingError(f"{stray[0]!r} is not one of its keys, which start with {PREFIX}")
        decoding = DecodingParams.from_extra_args(with_depth(default, options))
        if not decoding.is_standard:
            check_engine(decoding, options, vllm_config)
            check_markers(decoding, tokenizer)
    except (DecodingError, MissingMarkersError, json.JSONDecodeError) as error:
        raise DecodingError(f"the default decoding {text} ({DEFAULT_VARIABLE}): {error}") from error
    return default


def with_default(params: Any, default: Mapping[str, Any], options: EngineOptions) -> Any:
    """A copy of sampling parameters that names its decoding whole.

    Parameters without a key of LED carry the default keys, and those that name no depth take the engine's.
    """
    if not isinstance(params, SamplingParams):
        return params
    given = params.extra_args or {}
    extra_args = with_depth(given if any(map(is_led_key, given)) else {**given, **default}, options)
    if extra_args == given:
        return params
    params = params.clone()  # one object may stand for many requests, to several engines
    params.extra_args = extra_args
    return params


def with_depth(extra_args: Mapping[str, Any] | None, options: EngineOptions) -> dict[str, Any]:
    """Request keys that read latent layers and name neither depth nor layers, with those that the engine captures."""
    keys = dict(extra_args or {})
    named = {f"{PREFIX}_depth", f"{PREFIX}_latent_layers"} & keys.keys()
    if not options.depth or named or not decoding_of(keys).reads_depth:
        return keys
    if options.latent_layers:
        return {**keys, f"{PREFIX}_latent_layers": list(options.latent_layers)}
    return {**keys, f"{PREFIX}_depth": options.depth} if options.depth > 1 else keys


def is_led_key(key: str) -> bool:
    return key == PREFIX or key.startswith(PREFIX + "_")


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
        "LED does not work with speculative decoding: draft tokens are verified against the final layer": (
            vllm_config.speculative_config is not None
        ),
        "LED does not work with LoRA adapters in the engine": vllm_config.lora_config is not None,
        "LED does not work with pipeline parallelism": parallel.pipeline_parallel_size > 1,
        "LED does not work with prefill context parallelism": parallel.prefill_context_parallel_size > 1,
        "LED does not work with batches cut in two (enable_dbo, ubatch_size)": parallel.enable_dbo
        or parallel.ubatch_size > 1,
        "LED does not work with enable_batch_sharded_sampling": (
            getattr(parallel, "enable_batch_sharded_sampling", False)  # vLLM 0.26 has no such option
        ),
        "LED follows the thinking phase by token ids: enable_prompt_embeds must be off": (
            model_config.enable_prompt_embeds
        ),
    }
    for reason, applies in refusals.items():
        if applies:
            raise DecodingError(reason)
    if decoding.k > options.max_k:
        raise DecodingError(
            f"led_k={decoding.k} is more than the {options.max_k} candidates that this engine allows a request "
            f"({MAX_K_VARIABLE}={options.max_k})"
        )
    vocabulary = model_config.get_vocab_size()
    for name in ("start_marker", "end_marker"):
        marker = getattr(decoding, name)
        if outside := [token for token in marker if not isinstance(marker, str) and token >= vocabulary]:
            raise DecodingError(f"led_{name} names tokens {outside}; token ids of this model are 0 to {vocabulary - 1}")
    if decoding.properties.changes_forward and not options.admits(decoding.decoding):
        raise DecodingError(
            f"decoding {decoding.decoding!r} changes the model's forward pass, and this engine was not built for it: "
            f"start it with {decoding.decoding} in {BASELINES_VARIABLE}"
        )
    check_changed_passes(decoding, vllm_config)
    text = model_config.hf_text_config
    captured = options.captured_layers(text.num_hidden_layers, is_tied(text))
    if missing := [layer for layer in decoding.layers(text.num_hidden_layers, is_tied(text)) if layer not in captured]:
        remedy = f"lower led_depth or start the engine with a larger {DEPTH_VARIABLE}"
        if words := admitting([decoding]):
            remedy = f"start the engine with {words[0]} in {BASELINES_VARIABLE}"
        raise DecodingError(
            f"the request reads layers {missing}, but this engine captures {list(captured)} "
            f"({DEPTH_VARIABLE}={options.depth}); {remedy}"
        )


def check_markers(decoding: DecodingParams, tokenizer: Any) -> None:
    markers = decoding.start_marker, decoding.end_marker
    if decoding.think_only and tokenizer is None and any(isinstance(marker, str) for marker in markers):
        raise DecodingError(
            "led_think_only follows think markers, and skip_tokenizer_init leaves no tokenizer to spell them: name "
            "led_start_marker and led_end_marker as lists of token ids"
        )
    if decoding.think_only:
        check_cold_stop(decoding, decoding.markers(tokenizer))


def speller(model_config: Any) -> Callable[[DecodingParams], ThinkMarkers | None]:
    """Spells a request's think markers as the engine's tokenizer does; None where it cannot.

    A request whose decoding needs markers that the tokenizer cannot spell was refused at submission.
    """

    @lru_cache(maxsize=256)
    def spell(decoding: DecodingParams) -> ThinkMarkers | None:
        from vllm.tokenizers.registry import cached_tokenizer_from_config

        tokenizer = None if model_config.skip_tokenizer_init else cached_tokenizer_from_config(model_config)
        try:
            return decoding.markers(tokenizer)
        except MissingMarkersError:
            return None

    return spell


def read_options(original: Callable[..., None]) -> Callable[..., None]:
    """Wraps `InputProcessor.__init__`: reads what the engine captures, and its default decoding."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.led_options = EngineOptions.from_environment()
        self.led_allowed = set()  # decodings that were checked
        self.led_default = read_default(self.led_options, self.vllm_config, self.tokenizer)

    return __init__


def give_default(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `InputProcessor.process_inputs`: requests that name no decoding get the default one."""

    def process_inputs(self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            params = with_default(params, self.led_default, self.led_options)
        except DecodingError as error:
            raise VLLMValidationError(str(error), parameter="extra_args") from error
        return original(self, request_id, prompt, params, *args, **kwargs)

    return process_inputs


def validate(original: Callable[..., None]) -> Callable[..., None]:
    """Wraps `InputProcessor._validate_params`, which every request passes."""

    def _validate_params(self: Any, params: Any, supported_tasks: Any) -> None:
        original(self, params, supported_tasks)
        if getattr(params, "extra_args", None):
            check_request(params, self)

    return _validate_params


def check_no_default(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `LLM.beam_search`: a default decoding would change the scores of the beams."""

    def beam_search(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.llm_engine.input_processor.led_default:
            raise DecodingError(
                f"beam search does not work with a default decoding ({DEFAULT_VARIABLE}): build an engine without one"
            )
        return original(self, *args, **kwargs)

    return beam_search


def check_before_streaming(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `AsyncLLM.generate`, an asynchronous generator, in a function that checks when it is called."""

    def generate(self: Any, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(sampling_params, "extra_args", None):
            check_request(sampling_params, self.input_processor)
        return original(self, prompt, sampling_params, *args, **kwargs)

    return generate
