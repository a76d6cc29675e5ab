"""Thinking phase and tables under pressure: chunked prefill, preemption, requests joining and leaving, n > 1."""

import random

import pytest
from agreement import CLOSE, THINK, check_agreement, generate_traced

from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.engines.vllm_engine import VLLMEngine

MAX_LENGTH = 256


@pytest.fixture(scope="module")
def tight_engine(tiny_model):
    """Prefills in chunks of at most 48 tokens; has room for a few sequences only: some are preempted and resumed."""
    return VLLMEngine(
        tiny_model,
        depth=8,
        max_model_len=MAX_LENGTH,
        max_num_seqs=16,
        max_num_batched_tokens=48,
        block_size=32,
        num_gpu_blocks_override=18,
        enable_prefix_caching=True,
        disable_log_stats=False,
    )


def preemptions(engine) -> int:
    metrics = engine.llm.get_metrics()
    return sum(metric.value for metric in metrics if metric.name == "vllm:num_preemptions")


def test_random_requests_agree_with_transformers_under_pressure(tight_engine, tiny_model):
    from vllm import SamplingParams

    generator = random.Random(7)

    def text(length):
        return [generator.randrange(5, 105) for _ in range(length)]

    def markers(length):
        """Text with think markers strewn in, so that chunks of prefill end on them now and then."""
        return [generator.choice([THINK, CLOSE]) if generator.random() < 0.1 else token for token in text(length)]

    shared = markers(40)
    prompts, params = [], []
    for i in range(120):
        prompts.append((shared if i % 3 else []) + markers(generator.randrange(3, 100)))
        extra_args = [{"led": 1}, {"led": 1, "led_depth": 3, "led_k": 4}, {"led": 1, "led_think_start": "marker"}, None]
        params.append(
            SamplingParams(
                n=2 if i % 10 == 0 else 1,
                max_tokens=generator.randrange(4, 60),
                min_tokens=3,
                temperature=generator.choice([0.6, 1.0, 1.3]),
                logprobs=0,
                detokenize=False,
                logit_bias={THINK: 2.0, CLOSE: 2.5},  # phases change during generation, too
                extra_args=None if extra_args[i % 4] is None else extra_args[i % 4] | {"tag": i},
            )
        )
    outputs, traced = generate_traced(tight_engine.llm, prompts, params)
    assert preemptions(tight_engine) > 0, "the engine had room for all; the test did not test preemption"
    seen = check_agreement(TransformersEngine(tiny_model), prompts, params, outputs, traced)
    assert seen["log-probabilities"] > 1500
    assert seen["tables"] > 300
    assert seen["phase changes"] > 50
