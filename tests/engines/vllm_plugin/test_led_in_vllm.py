"""Proof that vLLM samples LED: tables, policy and log-probabilities against transformers, on one real engine."""

import json
import os
import random
import subprocess
import sys

import pytest
import torch
from agreement import CLOSE, THINK, check_agreement, generate_traced, random_text, sampling_params

from led_rl.benchmarks.acceptance.engine_checks import uncertain_prompt
from led_rl.benchmarks.acceptance.laws import chi_square_p
from led_rl.benchmarks.acceptance.requests import mixed_requests
from led_rl.decoding import DRAWS, DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.transformers_engine import TransformersEngine, standard_policy
from led_rl.engines.vllm_engine import request_decoder

LED = DecodingParams("led", draw="marginal")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def reference(tiny_model):
    return TransformersEngine(tiny_model)


def test_tables_phases_and_logprobs_agree_with_transformers(engine, reference):
    prompts, params = mixed_requests(110)
    outputs, traced = generate_traced(engine.llm, prompts, params)
    seen = check_agreement(reference, prompts, params, outputs, traced)
    assert seen["tables"] > 500
    assert seen["log-probabilities"] > 1000
    assert seen["supports"] == seen["log-probabilities"]
    assert seen["truncated supports"] > 100
    assert (
        min(seen[f"drawn by {name}"] for name in ("led", "top_k_control", "led_reference", "dola", "near_final")) > 40
    )


def draws(engine, prompt, count, **changes):
    """`count` next tokens after one prompt."""
    params = sampling_params(max_tokens=1, **changes)
    outputs = engine.llm.generate([{"prompt_token_ids": prompt}] * count, params, use_tqdm=False)
    return torch.tensor([output.outputs[0].token_ids[0] for output in outputs])


@pytest.mark.parametrize("draw", DRAWS)
def test_thinking_tokens_follow_mu_and_not_the_final_layer(engine, reference, draw):
    prompt = uncertain_prompt(reference)
    led, posteriors = reference.distributions(prompt, LED, 0.8)
    vocabulary = posteriors.shape[-1]
    mu = torch.zeros(vocabulary).scatter_(0, led.candidates[-1], led.mu[-1])
    exploit = torch.zeros(vocabulary).scatter_(0, led.candidates[-1], led.exploit[-1])
    tokens = draws(engine, prompt, 20_000, extra_args={"led": 1, "led_draw": draw}, seed=None, top_p=0.5)
    assert chi_square_p(tokens, mu) > 1e-3
    assert chi_square_p(tokens, exploit) < 1e-6


@pytest.mark.parametrize("decoding", [DecodingParams("dola"), DecodingParams("near_final", near_final_layers=4)])
def test_thinking_tokens_follow_the_chosen_layers(engine, reference, decoding):
    prompt = uncertain_prompt(reference)
    policy = reference.policy(prompt, decoding, 0.8)[-1]
    standard = standard_policy(reference.model(torch.tensor([prompt])).logits[0, -1:], Sampling(0.8))[0]
    tokens = draws(engine, prompt, 5_000, extra_args=decoding.to_extra_args(), seed=None, top_p=0.5)
    assert chi_square_p(tokens, policy) > 1e-3
    assert chi_square_p(tokens, standard) < 1e-6


def test_tokens_after_thinking_follow_standard_sampling(engine, reference):
    prompt = [*uncertain_prompt(reference), CLOSE]
    logits = reference.model(torch.tensor([prompt])).logits[0, -1:]
    expected = standard_policy(logits, Sampling(0.8, top_p=0.9))[0]
    tokens = draws(engine, prompt, 5_000, extra_args={"led": 1}, top_p=0.9)
    assert chi_square_p(tokens, expected) > 1e-3


def test_greedy_requests_keep_the_coin(engine, reference):
    prompt = uncertain_prompt(reference, 0.0)
    led, posteriors = reference.distributions(prompt, LED, 0.0)
    mu = torch.zeros(posteriors.shape[-1]).scatter_(0, led.candidates[-1], led.mu[-1])
    assert chi_square_p(draws(engine, prompt, 4000, extra_args={"led": 1}, temperature=0.0), mu) > 1e-3


OTHERS: list[dict] = [{"led": 1}, {"led_decoding": "dola"}, {"led_decoding": "near_final", "led_near_final_layers": 4}]
PLAIN = """
import json, sys
from led_rl.engines.environment import set_cpu_environment
set_cpu_environment()
from vllm import LLM, SamplingParams
requests = json.load(open(sys.argv[2]))
llm = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=32,
          logprobs_mode="processed_logprobs", seed=0)
import vllm.v1.sample.logits_processor as lp
assert not any("LED" in p.__name__ for p in lp.BUILTIN_LOGITS_PROCESSORS)
outputs = llm.generate([{"prompt_token_ids": p} for p, _ in requests],
                       [SamplingParams(**s) for _, s in requests], use_tqdm=False)
json.dump([[list(o.outputs[0].token_ids),
            [s[t].logprob for s, t in zip(o.outputs[0].logprobs, o.outputs[0].token_ids)]] for o in outputs],
          open(sys.argv[3], "w"))
"""


def test_standard_requests_in_a_mixed_batch_are_bit_identical_to_plain_vllm(engine, tiny_model, tmp_path):
    generator = random.Random(3)
    settings = {"max_tokens": 24, "logprobs": 0, "ignore_eos": True, "detokenize": False}
    requests = [
        (
            [*random_text(generator, 20), THINK],
            settings | {"temperature": [0.7, 0.0, 1.0][i % 3], "seed": i, "top_p": [1.0, 0.9][i % 2]},
        )
        for i in range(24)
    ]
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    environment = os.environ | {"VLLM_PLUGINS": "none"}
    subprocess.run(
        [sys.executable, "-c", PLAIN, tiny_model, str(tmp_path / "requests.json"), str(tmp_path / "plain.json")],
        check=True,
        env=environment,
    )
    plain = json.loads((tmp_path / "plain.json").read_text())
    params = [
        sampling_params(**(request | ({"extra_args": OTHERS[i // 2 % len(OTHERS)] | {"tag": i}} if i % 2 else {})))
        for i, (_, request) in enumerate(requests)
    ]
    outputs, _ = generate_traced(engine.llm, [prompt for prompt, _ in requests], params)
    different = 0
    for i, (output, (tokens, logprobs)) in enumerate(zip(outputs, plain, strict=True)):
        sampled = output.outputs[0]
        same = list(sampled.token_ids) == tokens
        if i % 2 == 0:
            assert same, i
            assert [s[t].logprob for s, t in zip(sampled.logprobs, tokens, strict=True)] == logprobs, i
        else:
            different += not same
    assert different > 0  # the LED rows did something else


def test_led_s_rows_are_bit_identical_whatever_other_decodings_are_in_the_batch(engine):
    prompts = [[*random_text(random.Random(i), 20), THINK] for i in range(24)]

    def sampled(companion):
        kinds = [{"led": 1}, companion, {"led": 1, "led_draw": "marginal"}, None]
        params = [sampling_params(seed=i, extra_args=kinds[i % 4]) for i in range(24)]
        engine.llm.reset_prefix_cache()
        outputs = engine.llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        samples = [output.outputs[0] for i, output in enumerate(outputs) if i % 4 != 1]
        return [
            (list(s.token_ids), [step[t].logprob for step, t in zip(s.logprobs, s.token_ids, strict=True)])
            for s in samples
        ]

    alone = sampled(None)
    for companion in ({"led_decoding": "dola"}, {"led_decoding": "near_final", "led_near_final_layers": 4}):
        assert sampled(companion) == alone


@pytest.mark.parametrize("draw", DRAWS)
def test_seeded_requests_reproduce_whatever_else_is_in_the_batch(engine, draw):
    prompts = [[*random_text(random.Random(i), 10), THINK] for i in range(6)]
    extra_args = {"led": 1, "led_draw": draw, "led_think_only": 0}

    def completions(params):
        outputs = engine.llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    seeded = [sampling_params(seed=7 + i, extra_args=extra_args) for i in range(6)]
    first = completions(seeded)
    assert completions(seeded) == first
    others = [param if i % 2 else sampling_params(extra_args={"led": 1}) for i, param in enumerate(seeded)]
    assert completions(others)[1::2] == first[1::2]
    assert completions([sampling_params(seed=70 + i, extra_args=extra_args) for i in range(6)]) != first


@pytest.mark.parametrize("draw", DRAWS)
def test_unseeded_requests_follow_the_generator_that_a_checkpoint_holds(engine, draw):
    prompts = [{"prompt_token_ids": [*random_text(random.Random(i), 10), THINK]} for i in range(4)]
    params = sampling_params(extra_args={"led": 1, "led_draw": draw, "led_think_only": 0})
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs = engine.llm.generate(prompts, params, use_tqdm=False)
        found.append([list(output.outputs[0].token_ids) for output in outputs])
    assert found[0] == found[1] != found[2]


def test_statistics_are_the_sums_of_the_traced_rows(engine):
    decoder = request_decoder(engine.llm)
    decoder.totals(reset=True)
    prompts, params = mixed_requests(32)
    _, rows = generate_traced(engine.llm, prompts, params)
    totals = decoder.totals()
    drawn = [step.draws[row] for found in rows.values() for step, row in found if row in step.draws]
    assert totals["rows"] == len(drawn)
    for name in ("confidence", "explored"):
        assert totals[name] == pytest.approx(sum(float(getattr(draw, name)[at]) for draw, at in drawn), rel=1e-6)
    read = [(draw, at) for draw, at in drawn if draw.read is not None and draw.read[at]]
    assert totals["read"] == len(read)
    depths = torch.tensor([int(draw.depth[at]) for draw, at in read]).bincount(minlength=8)
    assert [totals[f"depth_{j}"] for j in range(8)] == depths.tolist()


@pytest.mark.parametrize(
    ("extra_args", "message"),
    [
        ({"led": 1, "led_depht": 4}, "led_depht"),
        ({"led": 1, "led_depth": 10}, "captures"),
        ({"led": 1, "led_depth": 99}, "12"),
        ({"led": 1, "led_k": 0}, "led_k"),
        ({"led_decoding": "doll"}, "standard, led, top_k_control, led_reference"),
        ({"led_decoding": "dola", "led_dola_layers": [1, 3]}, "dola=1.3 in LED_RL_BASELINES"),
        ({"led_decoding": "near_final"}, "near_final=10 in LED_RL_BASELINES"),
        ({"led_decoding": "soft_thinking"}, "soft_thinking in LED_RL_BASELINES"),
        ({"led": 1, "led_dola_relative_top": 0.2}, "led_dola_relative_top belongs to dola"),
        ({"led_k": 4}, "without a decoding"),
    ],
)
def test_wrong_requests_are_refused_and_the_engine_lives_on(engine, extra_args, message):
    with pytest.raises(Exception, match=message):
        engine.llm.generate([{"prompt_token_ids": [5, 6, 3]}], sampling_params(extra_args=extra_args), use_tqdm=False)
    assert draws(engine, [5, 6, THINK], 1, extra_args={"led": 1}).numel() == 1


def test_the_sampler_refuses_to_go_on_without_states():
    from led_rl.engines.vllm_plugin.latent_states import LatentStates

    states = LatentStates(2, 8, 4, torch.float32)
    states.begin(torch.arange(2))
    states.check(2)
    with pytest.raises(RuntimeError, match="latent states were lost"):
        states.check(3)
