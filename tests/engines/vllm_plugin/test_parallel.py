"""LED over two tensor-parallel ranks, in both runners: the oracle's policy, one token for both, little to gather."""

import json
import sys

import pytest
import torch
from agreement import CLOSE, THINK, sampling_params
from changed_loop import KINDS, faults, replay
from subprocesses import ROOT, run_command
from vllm import SamplingParams

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.transformers_engine import CHOOSING, TransformersEngine, standard_policy
from led_rl.sampler.support import read_record
from led_rl.sampler.uniforms import key_of

DECODINGS = [
    {"led": 1, "led_draw": "marginal"},
    {"led": 1},
    {"led": 1, "led_draw": "marginal", "led_depth": 3, "led_k": 4, "led_latent_norm": 1},
    {"led_decoding": "top_k_control", "led_k": 5},
    None,
]


TOKENS = 10
RUNNERS = {
    "v1": "vllm.v1.worker.cpu_model_runner",
    "v2": "vllm.v1.worker.cpu.model_runner",
    "gpu": "vllm.v1.worker.gpu.model_runner",
}
TOLERANCE = 5e-3 if torch.cuda.is_available() else 1e-5  # float32 products on a GPU may be in TF32


def asked(i: int, decoding: dict | None):
    settings = {"max_tokens": TOKENS, "temperature": [0.8, 1.2][i % 2], "top_p": [1.0, 0.9][i % 3 == 0], "logprobs": 0}
    settings |= {"ignore_eos": True, "detokenize": False, "extra_args": decoding}
    if i % 7:  # without a seed each rank must come to the same by itself
        settings["seed"] = 100 + i
    return [5 + i, 17, 42, 9 + i, [THINK, CLOSE, 7, THINK][i % 4]], settings


MIXED = [asked(i, DECODINGS[i % len(DECODINGS)]) for i in range(20)]
WHOLE = [  # decodings that gather whole logits of latent layers
    {"led_decoding": "led_reference", "led_depth": 4},
    {"led_decoding": "dola"},
    {"led_decoding": "near_final", "led_near_final_layers": 4},
]
REFERENCE = [asked(i, WHOLE[0]) for i in range(4)]
CHANGED = [  # seeded: the loop needs the key of their numbers
    asked(
        1 + i,
        {"led_decoding": kind, "led_soft_cold_stop_entropy": 2.0, "led_soft_cold_stop_length": 6}
        if kind != "latent_noise"
        else {"led_decoding": kind, "led_noise_scale": 0.5},
    )
    for i, kind in enumerate(
        2 * (KINDS[:2] if torch.cuda.is_available() else KINDS)
    )  # noise needs an engine without graphs
]
CHOSEN = [asked(i, [*WHOLE[1:], {"led": 1}, None][i % 4]) for i in range(8)]


@pytest.fixture(scope="module", params=["v1", "v2", pytest.param("gpu", marks=pytest.mark.gpu)])
def facts(request, tiny_model, tmp_path_factory):
    if request.param == "gpu" and torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs")
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "requests.json").write_text(json.dumps([MIXED, REFERENCE, CHOSEN, CHANGED]))
    probe = ROOT / "tests" / "probes" / "parallel_probe.py"
    files = folder / "requests.json", folder / "facts.json"
    run_command(sys.executable, probe, request.param, tiny_model, *files, timeout=400)
    facts = json.loads((folder / "facts.json").read_text())
    runner = RUNNERS[request.param]
    assert {rank["runner"] for found in facts for rank in found["ranks"]} == {runner}
    return facts


@pytest.fixture(scope="module")
def mixed(facts):
    return facts[0]


def test_the_ranks_share_the_vocabulary(mixed, tiny_model):
    (start, middle, _), (begin, end, _) = (rank["vocabulary"] for rank in mixed["ranks"])
    assert start == 0
    assert middle == begin
    assert end == TransformersEngine(tiny_model).model.config.vocab_size


def policies(reference, prompt, settings, tokens) -> list[list[torch.Tensor]]:
    """For each token the (vocab,) distributions, one or two, that it may have been drawn from."""
    decoding, temperature = DecodingParams.from_extra_args(settings["extra_args"]), settings["temperature"]
    led, _ = reference.distributions(prompt + tokens[:-1], decoding, temperature)
    with torch.no_grad():
        logits = reference.model(torch.tensor([prompt + tokens[:-1]])).logits[0]
    standard = standard_policy(logits, Sampling(temperature, top_p=settings["top_p"]))
    mu, q, b = (
        torch.zeros_like(logits).scatter_(-1, led.candidates, branch) for branch in (led.mu, led.explore, led.exploit)
    )
    if decoding.decoding == "top_k_control":
        policies = [standard_policy(logits, Sampling(temperature, top_k=decoding.k))]
    elif decoding.decoding in CHOOSING:
        policies = [reference.policy(prompt + tokens[:-1], decoding, temperature)]
    else:
        policies = [q, b] if decoding.decoding == "led" and decoding.draw == "coin" else [mu]
    thinking = reference.markers(decoding).thinking_mask(prompt, tokens)
    last = len(prompt) - 1
    return [
        [policy[last + step] for policy in (policies if thinks and not decoding.is_standard else [standard])]
        for step, thinks in enumerate(thinking)
    ]


def test_log_probabilities_agree_with_transformers(facts, tiny_model):
    reference, checked = TransformersEngine(tiny_model), 0
    for requests, found in zip([MIXED, REFERENCE, CHOSEN], facts[:3], strict=True):
        for (prompt, settings), tokens, logprobs in zip(requests, found["tokens"], found["logprobs"], strict=True):
            expected = policies(reference, prompt, settings, tokens)
            for token, logprob, may_be in zip(tokens, logprobs, expected, strict=True):
                checked += 1
                assert any(abs(policy[token].log().item() - logprob) < TOLERANCE for policy in may_be), settings
    assert checked == TOKENS * (len(MIXED) + len(REFERENCE) + len(CHOSEN))


def test_supports_are_those_of_transformers(facts, tiny_model):
    reference, of_candidates = TransformersEngine(tiny_model), 0
    for requests, found in zip([MIXED, REFERENCE, CHOSEN], facts[:3], strict=True):
        for (prompt, settings), tokens, records in zip(requests, found["tokens"], found["supports"], strict=True):
            expected = policies(reference, prompt, settings, tokens)
            for token, record, may_be in zip(tokens, records, expected, strict=True):
                ids, explored = read_record(record)
                of_candidates += explored >= 0
                if not record:
                    assert settings["top_p"] == 1
                    continue
                assert token in ids
                strays = [set(policy.nonzero().flatten().tolist()) ^ set(ids) for policy in may_be]
                assert min(map(len, strays)) <= 1  # an id at the edge of top-p may fall on either side
    assert of_candidates > 80


def test_changed_forward_passes_agree_with_a_loop_over_transformers(facts, oracle):
    mixed = noisy = 0
    for (prompt, settings), tokens, logprobs in zip(CHANGED, facts[3]["tokens"], facts[3]["logprobs"], strict=True):
        replayed = replay(oracle, prompt, tokens, SamplingParams(**settings), key_of(settings["seed"]))
        assert not faults(replayed, tokens, logprobs, max(TOLERANCE, 1e-3)), settings
        mixed, noisy = mixed + replayed.mixed, noisy + replayed.noisy
    assert mixed > 10
    assert noisy > 4 or torch.cuda.is_available()


def test_both_ranks_draw_the_same_tokens_from_the_same_bits(facts):
    for found in facts:
        first, second = found["ranks"]
        assert first["tokens"] == second["tokens"]
        assert first["policies"] == second["policies"]  # by row and position; candidates, probabilities in float64
        assert first["totals"] == second["totals"]
    assert len(facts[0]["ranks"][0]["policies"]) > 80


def test_seeded_thinking_requests_draw_the_tokens_of_one_rank_alone(mixed, engine):
    if torch.cuda.is_available():
        pytest.skip("products in TF32 may tip a draw: compared on CPU")
    led_rows = [i for i, (_, settings) in enumerate(MIXED) if settings["extra_args"] and "seed" in settings]
    led_rows = [
        i for i in led_rows if CLOSE not in MIXED[i][0] + mixed["tokens"][i]
    ]  # after thinking vLLM's generators draw
    assert len(led_rows) > 6
    prompts = [{"prompt_token_ids": MIXED[i][0]} for i in led_rows]
    outputs = engine.llm.generate(prompts, [sampling_params(**MIXED[i][1]) for i in led_rows], use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == [mixed["tokens"][i] for i in led_rows]


def test_led_gathers_one_number_and_k_logits_for_a_layer_and_never_its_logits(mixed):
    if torch.cuda.is_available():
        pytest.skip("a GPU's ranks exchange the numbers of every row, read or not: counted on CPU")
    for rank in mixed["ranks"]:
        assert len(rank["rows"]) >= TOKENS
        final_layer = [rows * rank["vocabulary"][2] for rows in rank["rows"]]
        latent = [rows * (depth - 1) * (1 + k) for rows, depth, k in rank["read"]]
        assert latent
        assert sorted(rank["gathered"]) == sorted(final_layer + latent)
