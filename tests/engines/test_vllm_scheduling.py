"""Thinking phase and tables under pressure: chunked prefill, preemption, requests joining and leaving, n > 1."""

import itertools
import random

import pytest
import torch

from led_rl.decoding import DecodingParams
from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.engines.vllm_engine import VLLMEngine, led_batch

THINK, CLOSE = 3, 4
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
    batch = led_batch(tight_engine.llm)
    batch.trace = []
    outputs = tight_engine.llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
    traced: dict[tuple[int, int], list] = {}
    for step in batch.trace:
        for row, extra_args in enumerate(step.extra_args):
            if extra_args is not None:
                traced.setdefault((extra_args["tag"], int(step.positions[row])), []).append((step, row))
    batch.trace = None
    assert preemptions(tight_engine) > 0, "the engine had room for all; the test did not test preemption"

    reference = TransformersEngine(tiny_model)
    checked = phase_changes = 0
    for i, output in enumerate(outputs):
        if params[i].extra_args is None:
            continue
        decoding = DecodingParams.from_extra_args(params[i].extra_args)
        for sample in output.outputs:
            tokens = list(sample.token_ids)
            thinking = reference.markers.thinking_mask(prompts[i], tokens, decoding.think_start == "prompt")
            phase_changes += sum(a != b for a, b in itertools.pairwise(thinking))
            with torch.no_grad():
                hidden = reference.model(torch.tensor([prompts[i] + tokens]), output_hidden_states=True).hidden_states
                states = [state[0, len(prompts[i]) - 1 : -1] for state in hidden]
                logits = reference.layer_logits(states, decoding)
            for token in (THINK, CLOSE):
                logits[:, 0, token] += params[i].logit_bias[token]
            logits[:3, 0, reference.tokenizer.eos_token_id] = -torch.inf  # min_tokens
            posteriors = (logits / params[i].temperature).softmax(-1)
            for step, expected in enumerate(posteriors):
                # with n = 2 two samples share tag and position, and a recomputed step is traced twice
                agreeing = [
                    found
                    for found, row in traced[i, len(prompts[i]) - 1 + step]
                    if bool(found.explore[row]) == thinking[step]
                    and torch.allclose(
                        found.table[row][: expected.shape[0], : decoding.k],
                        expected[:, found.distribution.candidates[row][: decoding.k]],
                        atol=1e-5,
                        rtol=0,
                    )
                ]
                assert agreeing, (i, step, thinking[step])
                checked += 1
    assert checked > 1500
    assert phase_changes > 50
