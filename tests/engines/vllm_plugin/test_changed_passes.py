"""Soft Thinking and latent noise in vLLM against a loop over transformers, under pressure and beside other requests."""

import itertools
import random

import pytest
from agreement import THINK, generate_traced, kept, random_text, sampling_params
from changed_loop import KINDS, changing_requests, check_replay, keys_of, keys_of_requests

from led_rl.decoding import STANDARD
from led_rl.engines.vllm_engine import VLLMEngine, model_runner, request_decoder
from led_rl.engines.vllm_plugin import block_keys


@pytest.fixture(scope="module")
def changing(tiny_model):
    """Prefills in chunks of at most 64 tokens and has room for a few sequences: some are preempted and resumed."""
    engine = VLLMEngine(
        tiny_model,
        depth=8,
        max_model_len=256,
        max_num_seqs=12,
        max_num_batched_tokens=64,
        block_size=32,
        num_gpu_blocks_override=12,
        enable_prefix_caching=True,
        disable_log_stats=False,
        baselines=KINDS,
    )
    return kept(engine)


def test_requests_under_pressure_agree_with_a_loop_over_transformers(changing, oracle):
    """Chunked prefill, prefix caching, preemption, joining. No seeds: vLLM on CPU crashes on them in chunks."""
    kinds = [[*KINDS, *KINDS, "led", None][i % 8] for i in range(56)]
    prompts, params = changing_requests(3, kinds, 44)
    arrivals = list(itertools.accumulate(random.Random(1).choice([0, 0, 0, 1, 2, 8]) for _ in kinds))
    decoder = request_decoder(changing.llm)
    with keys_of_requests(decoder.slots) as admitted:
        outputs, _ = generate_traced(changing.llm, prompts, params, arrivals)
    seen = check_replay(oracle, prompts, params, outputs, admitted)
    assert sum(len(keys) > 1 for keys in admitted.values()) > 3, "no request was preempted: the test did not test it"
    assert seen["mixed"] > 150
    assert seen["noisy"] > 100
    assert seen["cold stops"] > 1
    assert seen["answers"] > 100
    totals = decoder.totals()
    assert totals["cold_stops"] >= seen["cold stops"]
    assert not model_runner(changing.llm).get_model().led_changes.past


def completions(engine, prompts, params):
    """Tokens and log-probabilities of each request, and its output."""
    outputs, _ = generate_traced(engine.llm, prompts, params)
    found = []
    for output in outputs:
        sampled = output.outputs[0]
        tokens = list(sampled.token_ids)
        found.append((tokens, [step[token].logprob for step, token in zip(sampled.logprobs, tokens, strict=True)]))
    return found, outputs


def test_rows_beside_changed_passes_are_bit_identical(changing):
    """Standard and LED rows, each with a seed, beside rows of a plain control and then of every changed pass."""
    generator = random.Random(5)
    prompts = [[*random_text(generator, 6), THINK] for _ in range(9)]

    def batch(others):
        kinds = ["led", *others[:2], None, *others[2:4], "led", None, others[4]]
        settings = {"max_tokens": 20, "temperature": 0.9, "top_p": 0.9}
        return [
            sampling_params(seed=i, extra_args=keys_of(kind, random.Random(i), i), **settings)
            for i, kind in enumerate(kinds)
        ]

    beside, _ = completions(changing, prompts, batch(["led_reference"] * 5))
    changed, _ = completions(changing, prompts, batch([*KINDS, *KINDS[:2]]))
    for row in (0, 3, 6, 7):
        assert changed[row] == beside[row], row
    assert all(changed[row] != beside[row] for row in (1, 2, 4, 5, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_of_a_changed_pass_serves_no_other_request(changing, oracle, monkeypatch, kind):
    """Blocks of the prompt are shared; a request whose prompt is the text that was generated computes it itself."""
    generator = random.Random(7)
    prompt = [*random_text(generator, 39), THINK]
    keys = keys_of(kind, generator, 0)
    if kind != "latent_noise":
        keys["led_soft_cold_stop_length"] = 0

    def follow_up(extra_args):
        """Tokens of the cache that serve a request whose prompt is the text of one that changed its passes."""
        changing.llm.reset_prefix_cache()
        [(tokens, _)], _ = completions(changing, [prompt], [sampling_params(max_tokens=60, extra_args=keys)])
        text = [*prompt, *tokens[:58]]  # 98 tokens: three whole blocks, of which the first is of the prompt alone
        param = sampling_params(max_tokens=6, extra_args=extra_args)
        _, outputs = completions(changing, [text], [param])
        return outputs[0].num_cached_tokens, ([text], [param], outputs)

    with keys_of_requests(request_decoder(changing.llm).slots) as admitted:
        cached, asked = follow_up(None)
        assert cached == 32
        check_replay(oracle, *asked, admitted)
        admitted.clear()
        cached, asked = follow_up(keys | {"tag": "again"})
        assert cached == 32
        check_replay(oracle, *asked, admitted)
    monkeypatch.setattr(block_keys, "decoding_of", lambda extra_args: STANDARD)
    cached, asked = follow_up(None)
    assert cached == 96, "without the request in its key, the cache would serve it"
    with pytest.raises(AssertionError, match="log-probability"):
        check_replay(oracle, *asked, {})
    changing.llm.reset_prefix_cache()
