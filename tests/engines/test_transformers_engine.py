"""The oracle itself: against transformers' own generation and samplers, and against passes without cache or padding."""

import pytest
import torch
from conftest import save_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.transformers_engine import TransformersEngine, standard_policy
from led_rl.led import led_distribution

THINK, CLOSE = 3, 4
LED = DecodingParams("led")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A model that opens and closes its thoughts now and then."""
    return TransformersEngine(str(save_tiny_model(tmp_path_factory.mktemp("oracle"), seed=2)))


def prompts():
    """Of different lengths (padding), and of every phase: thinking, closed, reopened, unmarked."""
    texts = [[7, 8, THINK], [9, 10, 11, 12, 13, 14, THINK, 50, CLOSE], [CLOSE, 60, THINK, 61, 62], [20] * 12]
    return [[30 + i, *text] for i in range(4) for text in texts]


def whole_pass(engine, tokens):
    """States after 0 ... L layers of one unpadded sequence, without a cache: (tokens, hidden) each, and its logits."""
    with torch.no_grad():
        output = engine.model(torch.tensor([tokens]), output_hidden_states=True)
    return [state[0] for state in output.hidden_states], output.logits[0]


@pytest.mark.parametrize("latent_norm", [False, True])
@pytest.mark.parametrize("latent_layers", [None, (3, 11, 0)])
def test_layer_logits_are_the_head_of_each_state(engine, latent_norm, latent_layers):
    states, logits = whole_pass(engine, prompts()[1])
    decoding = DecodingParams("led", depth=5, latent_layers=latent_layers, latent_norm=latent_norm)
    with torch.no_grad():
        found = engine.layer_logits(states, decoding)
    layers = latent_layers or (11, 10, 9, 8)
    torch.testing.assert_close(found[:, 0], logits, atol=1e-5, rtol=0)
    weight = engine.model.lm_head.weight
    for j, layer in enumerate(layers, start=1):
        state = states[layer].double()
        if latent_norm:  # RMSNorm, written out
            scale = (state.pow(2).mean(-1, keepdim=True) + engine.model.config.rms_norm_eps).rsqrt()
            state = state * scale * engine.model.model.norm.weight.double()
        torch.testing.assert_close(found[:, j].double(), state @ weight.double().T, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "decoding",
    [
        LED,
        DecodingParams("led", depth=3, k=4, exploit=False, latent_norm=True),
        DecodingParams("led", think_only=False),
        DecodingParams("led", think_start="marker"),
        DecodingParams("top_k_control", k=5),
        DecodingParams(),
    ],
)
def test_batched_generation_draws_from_what_a_single_pass_says(engine, decoding):
    sampling = Sampling(0.9, top_p=0.9, min_p=0.02, max_tokens=16, n=3)
    groups = engine.generate(prompts(), decoding, sampling)
    pairs = [(prompt, completion) for prompt, group in zip(prompts(), groups, strict=True) for completion in group]
    for prompt, completion in pairs:
        states, logits = whole_pass(engine, prompt + completion.token_ids[:-1])
        rows = slice(len(prompt) - 1, None)
        unmarked = decoding.think_start == "prompt"
        assert completion.thinking == engine.markers(decoding).thinking_mask(prompt, completion.token_ids, unmarked)
        with torch.no_grad():
            layer_logits = engine.layer_logits([state[rows] for state in states], decoding)
        policy = standard_policy(logits[rows], sampling)
        explored = policy
        if decoding.decoding == "led":
            led = led_distribution(layer_logits, decoding.k, 0.9, exploit=decoding.exploit)
            explored = torch.zeros_like(policy).scatter_(-1, led.candidates, led.mu)
        elif decoding.decoding == "top_k_control":
            explored = standard_policy(logits[rows], Sampling(0.9, top_k=decoding.k))
        phases = torch.tensor(completion.thinking) | (not decoding.think_only)
        policy = torch.where(phases[:, None], explored, policy)
        expected = policy.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0].log()
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-5, rtol=0)
        assert completion.finished == (completion.token_ids[-1] in engine.end_tokens)
        assert completion.finished or len(completion.token_ids) == 16
        assert not set(completion.token_ids[:-1]) & engine.end_tokens


def test_the_phases_occur_that_the_tests_above_are_about(engine):
    groups = engine.generate(prompts(), LED, Sampling(0.9, max_tokens=16, n=3))
    completions = [completion for group in groups for completion in group]
    assert any(completion.finished for completion in completions)
    assert any(CLOSE in completion.token_ids[:-1] for completion in completions)
    assert {phase for completion in completions for phase in completion.thinking} == {True, False}


def test_greedy_standard_decoding_is_transformers_own(engine):
    for prompt in prompts()[:6]:
        expected = engine.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
        found = engine.generate([prompt], DecodingParams(), Sampling(0.0, max_tokens=12))[0][0]
        assert found.token_ids == expected.tolist()
        assert found.logprobs == [0.0] * len(found.token_ids)


@pytest.mark.parametrize("decoding", [LED, DecodingParams()])
def test_tokens_follow_the_policy(engine, decoding):
    """Pearson's chi-square over 4000 draws of one next token."""
    prompt = prompts()[2]
    led, posteriors = engine.distributions(prompt, LED, 0.9)
    policy = posteriors[-1, 0].double()
    if decoding is LED:
        policy = torch.zeros_like(policy).scatter_(0, led.candidates[-1], led.mu[-1].double())
    groups = engine.generate([prompt], decoding, Sampling(0.9, max_tokens=1, n=4000))
    tokens = torch.tensor([completion.token_ids[0] for completion in groups[0]])
    observed = tokens.bincount(minlength=len(policy)).double()
    assert observed[policy == 0].sum() == 0
    large = policy * 4000 >= 5
    cells = torch.stack([observed, policy * 4000])
    cells = torch.cat([cells[:, large], cells[:, ~large].sum(1, keepdim=True)], dim=1)
    cells = cells[:, cells[1] > 0]
    statistic = ((cells[0] - cells[1]) ** 2 / cells[1]).sum().item()
    assert chi2.sf(statistic, cells.shape[1] - 1) > 1e-3


def test_completions_depend_on_seed_and_place_alone(engine):
    sampling = Sampling(1.0, max_tokens=8, n=3, seed=7)
    groups = engine.generate(prompts()[:2], LED, sampling)
    assert engine.generate(prompts()[:2], LED, sampling) == groups
    other = engine.generate([prompts()[0], prompts()[5]], LED, sampling)  # another neighbour, another padding
    assert [c.token_ids for c in other[0]] == [c.token_ids for c in groups[0]]
    assert len({tuple(c.token_ids) for c in groups[0]}) > 1
    assert engine.generate(prompts()[:2], LED, Sampling(1.0, max_tokens=8, n=3, seed=8)) != groups


def test_other_weights_can_be_loaded(engine, tmp_path):
    model = str(save_tiny_model(tmp_path / "other", seed=9))
    expected = TransformersEngine(model).generate(prompts()[:4], LED, Sampling(1.0, max_tokens=8))
    other = TransformersEngine(str(save_tiny_model(tmp_path / "another", seed=3)))
    assert other.generate(prompts()[:4], LED, Sampling(1.0, max_tokens=8)) != expected
    other.load_weights(model)
    assert other.generate(prompts()[:4], LED, Sampling(1.0, max_tokens=8)) == expected


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.3, 1.0, 1.7]),
    st.sampled_from([1.0, 0.9, 0.4, 0.05]),
    st.sampled_from([0, 1, 5, 20, 99]),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
def test_standard_sampling_is_that_of_transformers_warpers_in_vllm_s_order(seed, temperature, top_p, top_k, min_p):
    logits = torch.randn(6, 40, generator=torch.Generator().manual_seed(seed)) * 3
    scores = logits / temperature
    if min_p:
        scores = MinPLogitsWarper(min_p)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    found = standard_policy(logits, Sampling(temperature, top_p, top_k, min_p))
    torch.testing.assert_close(found, scores.softmax(-1), atol=1e-6, rtol=0)
