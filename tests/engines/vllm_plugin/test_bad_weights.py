"""Weights gone bad, prompt log-probabilities, beam search, and an engine that failed: offline."""

import random
from contextlib import contextmanager

import pytest
import torch
from agreement import THINK, kept, random_text, sampling_params

from led_rl.decoding import DecodingError
from led_rl.engines.self_check import _check_statistics
from led_rl.engines.vllm_engine import CPU_ENGINE_ARGUMENTS, engine_environment, model_runner, request_decoder
from led_rl.sampler.capture_options import EngineOptions

DECODINGS = (
    {"led": 1},
    {"led": 1, "led_draw": "marginal"},
    {"led_decoding": "led_reference"},
    {"led": 1, "led_k": 100},
)


def ask(llm, temperature=1.0):
    """Tokens and log-probabilities of each decoding's request, and of a standard one; and the outputs."""
    prompts = [{"prompt_token_ids": [5, 17, 42, THINK]}] * (len(DECODINGS) + 1)
    params = [
        sampling_params(extra_args=extra_args, seed=i, max_tokens=4, temperature=temperature)
        for i, extra_args in enumerate([*DECODINGS, {"led": 0}])
    ]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    sampled = [output.outputs[0] for output in outputs]
    logprobs = [[step[t].logprob for step, t in zip(s.logprobs, s.token_ids, strict=True)] for s in sampled]
    return [list(s.token_ids) for s in sampled], logprobs, outputs


@contextmanager
def spoilt(llm, rows):
    """The LM head with NaN in `rows`."""
    weight = model_runner(llm).model.lm_head.weight
    before = weight.detach().clone()
    weight.data[rows] = torch.nan
    try:
        yield
    finally:
        weight.data.copy_(before)


@pytest.mark.parametrize("rows", [50, slice(None)], ids=["one row of the vocabulary", "all weights"])
def test_weights_of_nan_draw_what_vllm_draws_and_no_figure_becomes_nan(engine, rows):
    llm, decoder = engine.llm, request_decoder(engine.llm)
    good = ask(llm)
    for temperature in (1.0, 0.0):
        decoder.totals(reset=True)
        with spoilt(llm, rows):
            tokens, logprobs, outputs = ask(llm, temperature)
        *led, standard = tokens
        assert led == [standard] * len(DECODINGS)
        assert logprobs[:-1] == [[0.0] * 4] * len(DECODINGS)
        statistics = [output.kv_transfer_params["led"] for output in outputs[:-1]]
        assert all(s["undrawable"] == s["rows"] == 4 and s["explored"] == 0 for s in statistics)
        assert all(s["entropy_mu"] == 0 and s["confidence"] == 1 for s in statistics)
        totals = decoder.totals()
        assert totals["undrawable"] == totals["rows"] == 4 * len(DECODINGS)
        assert all(value == value for value in totals.values())
        check = _check_statistics(llm, outputs[:-1])  # what `led-rl doctor` says
        assert check.status == "FAIL"
        assert "16 of 16 rows have logits that are no distribution" in check.text
    assert ask(llm)[:2] == good[:2]


@pytest.fixture(scope="module")
def chunked(tiny_model):
    """An engine with a default of LED, chunks of 24 tokens, and prefix caching."""
    from vllm import LLM

    sizes = {"max_model_len": 256, "max_num_seqs": 16, "kv_cache_memory_bytes": 2**24, "max_num_batched_tokens": 24}
    with engine_environment(EngineOptions(8), {"led": 1}):
        llm = LLM(
            tiny_model,
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,
            enable_chunked_prefill=True,
            **CPU_ENGINE_ARGUMENTS,
            **sizes,
        )
    return kept(llm)


def test_log_probabilities_of_prompts_are_the_model_s_whatever_the_decoding(chunked):
    generator = random.Random(0)
    prompts = [{"prompt_token_ids": [*random_text(generator, 60), THINK]} for _ in range(6)]
    found = []
    for extra_args in ({"led": 0}, {"led": 1}, {"led_decoding": "top_k_control"}, None):
        mixed = [extra_args if i % 2 else {"led": 1, "led_draw": "marginal"} for i in range(len(prompts))]
        for args in ([extra_args] * len(prompts), mixed):
            params = [sampling_params(extra_args=each, prompt_logprobs=2, max_tokens=3) for each in args]
            outputs = chunked.generate(prompts, params, use_tqdm=False)
            found.append(
                [[{t: p.logprob for t, p in (step or {}).items()} for step in o.prompt_logprobs] for o in outputs]
            )
    assert len(found[0][0]) == 61
    for other in found[1:]:
        for expected, got in zip(found[0], other, strict=True):
            for one, two in zip(expected, got, strict=True):
                assert one == pytest.approx(two, abs=1e-4)


def test_beam_search_is_refused_beside_a_default_decoding(chunked, engine):
    from vllm.sampling_params import BeamSearchParams

    params = BeamSearchParams(beam_width=2, max_tokens=2)
    with pytest.raises(DecodingError, match="LED_RL_DEFAULT"):
        chunked.beam_search([{"prompt_token_ids": [5, THINK]}], params)
    assert engine.llm.beam_search([{"prompt_token_ids": [5, THINK]}], params)[0].sequences


def test_an_engine_that_failed_raises_from_then_on(chunked):
    """Last of its engine. vLLM itself waits for ever for the tokens of the step that failed."""
    head = model_runner(chunked).model.lm_head
    head.weight = torch.nn.Parameter(head.weight[:, :8].clone(), requires_grad=False)  # a real error in the step
    request = [{"prompt_token_ids": [5, 6, THINK]}], sampling_params(max_tokens=2)
    with pytest.raises(RuntimeError, match=r"shape|mat1|size"):
        chunked.generate(*request, use_tqdm=False)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ended with an error at an earlier step"):
            chunked.generate(*request, use_tqdm=False)
