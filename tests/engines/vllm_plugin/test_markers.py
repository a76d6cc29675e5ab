"""Think markers in an engine whose tokenizer lacks them as tokens, and in one that has no tokenizer at all."""

import random
import re
from typing import Any

import pytest
from agreement import CLOSE, THINK, check_agreement, generate_traced, kept, random_text, sampling_params
from conftest import character_tokenizer, save_tiny_model

from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.engines.vllm_engine import CPU_ENGINE_ARGUMENTS, VLLMEngine, engine_environment
from led_rl.sampler.capture_options import EngineOptions

SMALL: dict[str, Any] = {"max_model_len": 256, "max_num_seqs": 16, "kv_cache_memory_bytes": 2**24}
SPELLER = character_tokenizer(think_tokens=False)
PIECES = ("<think>", "</think>", "<think", "</", "think>", "k><think>", "</thi", "a")


def spelt(text):
    return SPELLER.encode(text, add_special_tokens=False)


def following(tokens):
    """What may follow in the regular expression ([ab]|<think>|</think>)+"""
    begun = re.fullmatch("(?:[ab]|<think>|</think>)*(.*)", SPELLER.decode(tokens))[1]
    if not begun:
        return [*spelt("ab<"), *([SPELLER.eos_token_id] if tokens else [])]
    return [spelt(marker[len(begun)])[0] for marker in ("<think>", "</think>") if marker.startswith(begun)]


def test_markers_of_many_tokens_are_followed_in_chunked_prompts_and_as_they_are_generated(tmp_path):
    """`</think>` is eight tokens here; chunks of at most 24 tokens end within it, and a grammar has it generated."""
    from vllm.sampling_params import StructuredOutputsParams

    path = str(save_tiny_model(tmp_path, think_tokens=False, seed=5))
    engine = kept(VLLMEngine(path, depth=8, **SMALL, max_num_batched_tokens=24))
    generator = random.Random(3)
    prompts, params = [], []
    for i in range(60):
        text = "".join(generator.choice(PIECES) for _ in range(generator.randrange(9)))
        prompts.append(spelt("q" * generator.randrange(1, 9) + text))
        writes = i % 3 > 0
        params.append(
            sampling_params(
                max_tokens=48 if writes else 12,
                temperature=2.0,
                ignore_eos=not writes,
                logit_bias={SPELLER.eos_token_id: -50.0, spelt("<")[0]: 6.0},
                structured_outputs=StructuredOutputsParams(regex="([ab]|<think>|</think>)+") if writes else None,
                extra_args={"led": 1, "led_think_start": ["prompt", "marker"][i % 2], "tag": i},
            )
        )
    outputs, traced = generate_traced(engine.llm, prompts, params, [i // 2 for i in range(60)])
    grammars = {i: following for i in range(60) if i % 3}
    seen = check_agreement(TransformersEngine(path), prompts, params, outputs, traced, grammars)
    assert seen["phase changes"] > 25
    assert seen["drawn by led"] > 500


def test_without_a_tokenizer_markers_are_named_by_their_tokens(tiny_model):
    from vllm import LLM

    with engine_environment(EngineOptions(8)):
        llm = LLM(
            tiny_model,
            skip_tokenizer_init=True,
            logprobs_mode="processed_logprobs",
            **CPU_ENGINE_ARGUMENTS,
            **SMALL,
        )
    kept(llm)
    named = {"led": 1, "led_start_marker": [THINK], "led_end_marker": [CLOSE]}
    generator = random.Random(5)
    prompts = [random_text(generator, 9) + [[THINK], [THINK, CLOSE], []][i % 3] for i in range(18)]
    bias = {THINK: 4.0, CLOSE: 4.0}
    params = [sampling_params(logit_bias=bias, extra_args=named | {"tag": i}) for i in range(18)]
    outputs, traced = generate_traced(llm, prompts, params)
    seen = check_agreement(TransformersEngine(tiny_model), prompts, params, outputs, traced)
    assert seen["phase changes"] > 5
    for lacking in ({"led": 1}, {"led": 1, "led_start_marker": [THINK]}):
        with pytest.raises(Exception, match=r"skip_tokenizer_init.*led_start_marker and led_end_marker"):
            generate_traced(llm, prompts[:1], [sampling_params(extra_args=lacking)])
    everything = {"led": 1, "led_think_only": 0, "tag": 0}  # no marker matters
    requests = prompts[:1], [sampling_params(extra_args=everything)]
    outputs, traced = generate_traced(llm, *requests)
    assert all(step.active[row] for rows in traced.values() for step, row in rows)
