"""The requests of the acceptance: of every kind, seeded, for the tokenizer of models.py."""

import random
from typing import Any

from led_rl.benchmarks.acceptance.models import CLOSE, THINK
from led_rl.engines.agreement import sampling_params

MIXED: list[dict[str, Any] | None] = [
    {"led": 1},
    {"led": 1, "led_draw": "marginal"},
    {"led": 1, "led_k": 4, "led_depth": 3, "led_draw": "marginal"},
    {"led": 1, "led_aggregation": "mean_all"},
    {"led": 1, "led_aggregation": "max_entropy_layer", "led_depth": 5},
    {"led": 1, "led_aggregation": "product", "led_draw": "marginal"},
    {"led": 1, "led_latent_norm": 1, "led_exploit": 0},
    {"led": 1, "led_latent_layers": [9, 11, 6]},
    {"led": 1, "led_think_only": 0},
    {"led": 1, "led_think_start": "marker"},
    {"led_decoding": "top_k_control", "led_k": 5},
    {"led_decoding": "led_reference", "led_depth": 4},
    {"led_decoding": "dola"},
    {"led_decoding": "dola", "led_dola_layers": "high", "led_dola_relative_top": 0.01, "led_k": 20},
    {"led_decoding": "near_final", "led_near_final_layers": 4},
    None,
]
BASELINES = ("dola_low", "dola_high", "near_final=4")  # an engine admits these for the requests above
EDITS: list[dict[str, Any]] = [
    {"allowed_token_ids": list(range(THINK, 60))},
    {"logit_bias": {THINK: 3.0, CLOSE: 3.5, 40: 5.0}, "min_tokens": 6},
    {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"prompt_logprobs": 1},
]
Requests = tuple[list[list[int]], list[Any]]  # prompts of token ids, and vLLM's SamplingParams of each


def random_text(generator: random.Random, length: int) -> list[int]:
    """Token ids of printable characters."""
    return [generator.randrange(5, 105) for _ in range(length)]


def mixed_requests(count: int, layers: int = 12) -> Requests:
    """Requests of every kind in one batch, prompts that think, have closed thinking, or bear no marker.

    `layers`: of the model, of which requests that name latent layers ask for three of the last.
    """
    generator = random.Random(1)
    shared = random_text(generator, 40)  # a shared prefix: prefix-cache hits
    prompts, params = [], []
    for i in range(count):
        prompt = shared + random_text(generator, generator.randrange(3, 60))
        prompt += [[THINK], [THINK, 50, CLOSE, 51], [CLOSE, 60, THINK, 61], []][i % 4]
        prompts.append(prompt)
        extra_args = MIXED[(i // 4) % len(MIXED)]
        if extra_args and "led_latent_layers" in extra_args:
            extra_args = extra_args | {"led_latent_layers": [layers - 3, layers - 1, layers - 6]}
        params.append(
            sampling_params(
                temperature=[0.8, 0.5, 1.2, 0.0][i % 3] if i % 11 else 0.0,
                top_p=0.9 if i % 2 else 1.0,
                top_k=20 if i % 7 == 0 else 0,
                min_p=0.05 if i % 5 == 0 else 0.0,
                seed=100 + i if i % 6 == 1 else None,
                logit_bias={THINK: 3.0, CLOSE: 4.0} if i % 3 == 0 else None,
                extra_args=extra_args and extra_args | {"tag": i},
            )
        )
    return prompts, params


def pressing_requests(count: int) -> Requests:
    """Prompts with think markers strewn in, so that chunks of prefill end on them, and requests that edit logits."""
    generator = random.Random(7)

    def text(length: int) -> list[int]:
        marked = [generator.choice([THINK, CLOSE]) if generator.random() < 0.1 else None for _ in range(length)]
        return [marker or token for marker, token in zip(marked, random_text(generator, length), strict=True)]

    prompts, params = [], []
    for i in range(count):
        prompts.append(text(generator.randrange(20, 90)))
        decodings: list[dict[str, Any] | None] = [
            {"led": 1},
            {"led": 1, "led_depth": 3, "led_draw": "marginal"},
            {"led_decoding": "top_k_control"},
            None,
            {"led_decoding": "dola"},
            {"led_decoding": "near_final", "led_near_final_layers": 4},
        ]
        decoding = decodings[i % len(decodings)]
        changes: dict[str, Any] = {"max_tokens": 20, "logit_bias": {THINK: 3.0, CLOSE: 3.5}}
        changes |= {"extra_args": decoding and decoding | {"tag": i}} | EDITS[(i // 3) % len(EDITS)]
        params.append(sampling_params(**changes))
    return prompts, params


def seeded_requests(count: int, tokens: int = 24, mixed: bool = True) -> Requests:
    """Requests of one length with seeds of their own; if `mixed`, every second one thinks with LED or its control.

    The others are the same requests whether mixed or not: standard decoding of several kinds.
    """
    generator = random.Random(3)
    prompts, params = [], []
    for i in range(count):
        prompts.append([*random_text(generator, 20), THINK])
        decodings: list[dict[str, Any]] = [
            {"led": 1},
            {"led": 1, "led_draw": "marginal"},
            {"led_decoding": "top_k_control"},
        ]
        extra_args = decodings[i // 2 % 3] | {"tag": i} if mixed and i % 2 else None
        settings = {"temperature": [0.7, 0.0, 1.0][i % 3], "seed": i, "top_p": [1.0, 0.9][i % 2], "max_tokens": tokens}
        params.append(sampling_params(**settings, extra_args=extra_args))
    return prompts, params
