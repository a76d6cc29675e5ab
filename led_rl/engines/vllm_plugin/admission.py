"""Takes vLLM's requests into the sampler's slots."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from led_rl.decoding import DecodingParams, decoding_of, is_tied
from led_rl.sampler.capture_options import EngineOptions
from led_rl.sampler.request_decoder import RequestDecoder
from led_rl.sampler.request_slots import DecodingSlots
from led_rl.thinking import ThinkMarkers

Spell = Callable[[DecodingParams], ThinkMarkers | None]


def make_decoder(vllm_config: Any, slots: int, device: torch.device) -> RequestDecoder:
    """What draws in a runner that holds up to `slots` requests."""
    config = vllm_config.model_config
    text, options = config.hf_text_config, EngineOptions.from_environment()
    return RequestDecoder(options, text.num_hidden_layers, config.get_vocab_size(), slots, device, is_tied(text))


def admit(slots: DecodingSlots, slot: int, params: Any, token_ids: Sequence[int] | None, spell: Spell) -> None:
    """Takes a request's SamplingParams; `token_ids` are its prompt and what it has generated so far.

    `spell`: its think markers as the engine's tokenizer spells them, None if it cannot.
    """
    if token_ids is None:
        raise RuntimeError("LED follows the thinking phase by token ids: prompt embeddings do not work")
    seed = params.seed
    if seed is None:  # from the generator that a trainer's checkpoint holds
        seed = int(torch.randint(2**63 - 1, ()))
    decoding = decoding_of(params.extra_args)
    markers = spell(decoding)
    truncation = (0, 1.0, 0.0)
    if decoding.properties.changes_forward:
        truncation = max(params.top_k, 0), params.top_p, params.min_p
    slots.admit(slot, params.extra_args, markers, token_ids, seed, params.temperature, truncation)
