"""Which blocks of the KV cache may serve other requests."""

from collections.abc import Callable
from typing import Any

from led_rl.decoding import decoding_of


def with_request_of_changed_passes(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `generate_block_hash_extra_keys`: a block that holds generated tokens of a request whose forward passes
    are changed is named by that request, too.
    """

    def generate_block_hash_extra_keys(
        request: Any, start_token_idx: int, end_token_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        keys, index = original(request, start_token_idx, end_token_idx, *args, **kwargs)
        params = request.sampling_params
        if params is None or not params.extra_args or end_token_idx <= request.num_prompt_tokens:
            return keys, index
        if decoding_of(params.extra_args).properties.keeps_prefix_cache:
            return keys, index
        return (*(keys or ()), ("led_rl", request.request_id)), index

    return generate_block_hash_extra_keys
