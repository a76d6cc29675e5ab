"""LED in vLLM's V2 runner: the same proofs as for V1, in one process of its own (probes/v2_probe.py).

Without a GPU the runner works in Triton's interpreter (v2_on_cpu.py); with one as vLLM starts it, CUDA graphs and all.
"""

import json
import sys

import pytest
import torch
from agreement import THINK, sampling_params
from subprocesses import ROOT, run_command
from test_led_in_vllm import LED

from led_rl.benchmarks.acceptance.engine_checks import uncertain_prompt
from led_rl.benchmarks.acceptance.laws import chi_square_p
from led_rl.engines.environment import has_gpu
from led_rl.engines.transformers_engine import TransformersEngine

DRAWS = 300
DECODINGS = [
    {"led": 1},
    {"led": 1, "led_draw": "marginal"},
    {"led": 1, "led_depth": 4, "led_k": 3, "led_aggregation": "product"},
    {"led": 1, "led_latent_norm": 1, "led_exploit": 0},
    {"led_decoding": "led_reference"},
    {"led_decoding": "top_k_control"},
]


def seeded(count: int, temperatures: list[float]):
    """Requests drawn in our ways to their end: after thinking, the two runners' own generators would differ."""
    return [
        (
            [5 + i, 17, 42, 9 + i, 30, THINK],
            {
                "max_tokens": 10,
                "seed": 1000 + i,
                "temperature": temperatures[i % len(temperatures)],
                "extra_args": DECODINGS[i % len(DECODINGS)] | {"led_think_only": 0},
            },
        )
        for i in range(count)
    ]


SEEDED = seeded(9, [0.8, 1.2, 0.0])
UNEDITED = seeded(4, [1.0, 0.0])  # of such a batch vLLM says that there is nothing to do about its logits


@pytest.fixture(scope="module")
def reference(tiny_model):
    return TransformersEngine(tiny_model)


@pytest.fixture(scope="module")
def prompt(reference):
    return uncertain_prompt(reference)


@pytest.fixture(scope="module")
def facts(tiny_model, prompt, tmp_path_factory):
    folder = tmp_path_factory.mktemp("v2")
    requests = {"seeded": SEEDED, "unedited": UNEDITED, "prompt": prompt, "draws": DRAWS}
    (folder / "requests.json").write_text(json.dumps(requests))
    probe = ROOT / "tests" / "probes" / "v2_probe.py"
    files = folder / "requests.json", folder / "facts.json"
    run_command(sys.executable, probe, tiny_model, *files, timeout=600, TORCHDYNAMO_DISABLE=str(int(not has_gpu())))
    return json.loads((folder / "facts.json").read_text())


def test_changed_forward_passes_agree_with_a_loop_over_transformers(facts):
    seen = facts["changed"]
    assert seen["mixed"] > 20
    assert seen["answers"] > 20
    assert has_gpu() or seen["noisy"] > 20
    assert facts["changed and preempted"] > 0
    assert facts["kept of the past"] < 4, "requests that ended are forgotten, but for those of the last steps"


def test_the_probe_ran_runner_v2_with_our_sampler(facts):
    assert "vllm.v1.worker.gpu.model_runner" in facts["runner"]
    assert facts["sampler"] == "LEDSampler"


def test_tables_phases_and_logprobs_agree_with_transformers(facts):
    seen = facts["mixed"]
    assert seen["tables"] > 60
    assert seen["log-probabilities"] > 100
    assert seen["supports"] == seen["log-probabilities"]
    assert min(seen["drawn by led"], seen["drawn by top_k_control"], seen["drawn by led_reference"]) > 4


def test_chunked_prefill_preemption_and_edited_logits_agree_with_transformers(facts):
    assert facts["preemptions"] > 0, "the engine had room for all; the test did not test preemption"
    assert facts["pressed"]["log-probabilities"] > 120
    assert facts["pressed"]["supports"] == facts["pressed"]["log-probabilities"]
    assert facts["pressed"]["phase changes"] > 4


def test_a_deep_sleep_loses_nothing(facts):
    assert facts["woken"]["log-probabilities"] > 40


def test_requests_that_decode_as_usual_took_slots_that_led_had_left(facts):
    assert facts["slots that led left"] > 2  # and agreed with transformers, see above


def test_statistics_are_the_sums_of_the_traced_rows(facts):
    assert facts["traced"]["rows"] > 100
    for name, value in facts["traced"].items():
        assert facts["totals"][name] == pytest.approx(value, rel=1e-6), name


def test_outputs_carry_their_requests_statistics(facts):
    assert facts["rows in outputs"] == [len(tokens) for tokens in facts["unedited"]]


def test_seeded_requests_reproduce_in_another_batch(facts):
    assert facts["reversed"][::-1] == facts["seeded"]


@pytest.mark.skipif(has_gpu(), reason="on a GPU the shared engine has runner V2, too")
@pytest.mark.skipif(has_gpu(), reason="on a GPU the shared engine has runner V2, too")
@pytest.mark.parametrize(("name", "batch"), [("seeded", SEEDED), ("unedited", UNEDITED)], ids=["edited", "unedited"])
def test_seeded_requests_get_the_same_tokens_from_both_runners(facts, engine, name, batch):
    prompts = [{"prompt_token_ids": prompt} for prompt, _ in batch]
    outputs = engine.llm.generate(prompts, [sampling_params(**settings) for _, settings in batch], use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == facts[name]


@pytest.mark.parametrize("draw", ["coin", "marginal"])
def test_thinking_tokens_follow_mu_and_not_the_final_layer(facts, reference, prompt, draw):
    led, posteriors = reference.distributions(prompt, LED, 0.8)
    mu, exploit = (
        torch.zeros(posteriors.shape[-1]).scatter_(0, led.candidates[-1], branch[-1])
        for branch in (led.mu, led.exploit)
    )
    tokens = torch.tensor(facts[draw])
    assert len(tokens) == DRAWS
    assert chi_square_p(tokens, mu) > 1e-3
    assert chi_square_p(tokens, exploit) < 1e-6


@pytest.mark.gpu
def test_cuda_graphs_and_async_scheduling_are_on(facts):
    assert "FULL" in facts["graphs"]
    assert facts["async"]


@pytest.mark.gpu
def test_our_draw_does_not_wait_for_the_device(facts):
    assert facts["steps without waiting"] > 20
