"""What an engine refuses of decodings that change the forward pass, with the reason."""

from typing import Any

from led_rl.decoding import PREFIX, DecodingError, DecodingParams
from led_rl.sampler.carried import MOST_MIXED, end_token
from led_rl.thinking import ThinkMarkers

COLD_STOP = f"{PREFIX}_soft_cold_stop_length"


def check_changed_passes(decoding: DecodingParams, vllm_config: Any) -> None:
    """Raises DecodingError with the first reason why an engine of this configuration cannot decode so."""
    name, properties = decoding.decoding, decoding.properties
    if not properties.changes_forward:
        return
    layers = vllm_config.model_config.hf_text_config.num_hidden_layers
    refusals = {
        f"decoding {name!r} runs its layers as Python, as CUDA graphs and compiled layers cannot ask which tokens get "
        "noise: start the engine with enforce_eager": not (
            properties.keeps_graphs or vllm_config.model_config.enforce_eager
        ),
        f"decoding {name!r} does not work with a KV connector (kv_transfer_config): states that depend on more than "
        "token ids must not reach another engine": vllm_config.kv_transfer_config is not None,
        f"{PREFIX}_soft_top_k={decoding.soft_top_k} is more than the {MOST_MIXED} tokens that a mix may have": (
            decoding.soft_top_k > MOST_MIXED
        ),
        f"{PREFIX}_noise_layers names {[layer for layer in decoding.noise_layers or () if layer >= layers]}, but the "
        f"model's layers are 0 to {layers - 1}": any(layer >= layers for layer in decoding.noise_layers or ()),
        f"{PREFIX}_think_only: false leaves {name} no end of thinking for its cold stop to force: set {COLD_STOP}: 0": (
            not decoding.think_only and stops_cold(decoding)
        ),
    }
    for reason, applies in refusals.items():
        if applies:
            raise DecodingError(reason)


def check_cold_stop(decoding: DecodingParams, markers: ThinkMarkers) -> None:
    """Raises DecodingError if a cold stop is asked for, and no single token ends thinking."""
    if stops_cold(decoding) and end_token(markers) is None:
        raise DecodingError(
            f"the cold stop of {decoding.decoding} forces one token, and the tokenizer spells {decoding.end_marker!r} "
            f"by several: name another {PREFIX}_end_marker, or set {COLD_STOP}: 0"
        )


def stops_cold(decoding: DecodingParams) -> bool:
    return "soft_top_k" in decoding.properties.numbers and decoding.soft_cold_stop_length > 0
