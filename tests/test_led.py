"""Laws of `led_distribution`, and its agreement with a second implementation: loops over Python floats."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from led_rl.led import EPS, TIE, LEDDistribution, entropy, led_distribution

INF = float("inf")


def loop_led(layers, candidates, temperature=1.0, exploit=True, eps=1e-6):
    """One row of LED.md on given candidates, written down again without tensors.

    Args:
        layers: logits of each layer over the vocabulary, final layer first.

    Returns:
        (b, q, confidence, chosen depth, mu), distributions as lists over the candidates.
    """
    posteriors = []
    for logits in layers:
        top = max(logits)
        weights = [math.exp((logit - top) / (temperature or 1.0)) for logit in logits]
        posteriors.append([weight / math.fsum(weights) for weight in weights])
    sums = [0.0] * len(candidates)
    aggregates, entropies = [], []
    for posterior in posteriors:
        for i, token in enumerate(candidates):
            if layers[0][token] != -INF:
                sums[i] += max(posterior[token], eps)
        aggregate = [value / math.fsum(sums) for value in sums]
        aggregates.append(aggregate)
        entropies.append(-math.fsum(p * math.log(p) for p in aggregate if p > 0))
    chosen = next(j for j, entropy in enumerate(entropies) if entropy >= max(entropies) - TIE)
    b, q = aggregates[0], aggregates[chosen]
    if temperature == 0:
        b, q = ([float(i == p.index(max(p))) for i in range(len(p))] for p in (b, q))
    confidence = max(posteriors[0])
    weight = confidence if exploit else 0.0
    return b, q, confidence, chosen, [weight * x + (1 - weight) * y for x, y in zip(b, q, strict=True)]


def assert_is_led(layer_logits, k, temperature=1.0, exploit=True, tolerance=1e-6) -> LEDDistribution:
    """The candidates are a top-k of the final layer, and all else agrees with `loop_led` on them."""
    led = led_distribution(layer_logits, k, temperature, exploit=exploit)
    rows, _, vocab = layer_logits.shape
    temperatures = torch.as_tensor(temperature, dtype=torch.float64).expand(rows).tolist()
    for row in range(rows):
        candidates = led.candidates[row].tolist()
        final = layer_logits[row, 0].double()
        assert len(set(candidates)) == len(candidates) == min(k, vocab)
        others = torch.ones(vocab, dtype=torch.bool).scatter_(0, led.candidates[row], False)
        chosen_logits = final[led.candidates[row]]
        assert chosen_logits.tolist() == sorted(chosen_logits.tolist(), reverse=True)
        assert not others.any() or chosen_logits[-1] >= final[others].max()
        expected = loop_led(layer_logits[row].double().tolist(), candidates, temperatures[row], exploit)
        for name, value in zip(("exploit", "explore", "confidence", "depth", "mu"), expected, strict=True):
            found = getattr(led, name)[row].double()
            torch.testing.assert_close(found, torch.tensor(value).double(), atol=tolerance, rtol=0, msg=name)
    return led


def random_logits(seed, rows=4, depth=8, vocab=50, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, depth, vocab, generator=generator, dtype=torch.float64) * scale).to(dtype)


def dense(led: LEDDistribution, vocab: int) -> torch.Tensor:
    """(rows, 3, vocab): exploit, explore and mu over the whole vocabulary."""
    values = torch.stack([led.exploit, led.explore, led.mu], dim=1)
    zeros = values.new_zeros(len(values), 3, vocab)
    return zeros.scatter_(-1, led.candidates[:, None].expand_as(values), values)


shapes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(2, 40))
scales = st.sampled_from([0.0, 0.1, 1.0, 4.0, 30.0])
seeds = st.integers(0, 2**31)


@settings(max_examples=60, deadline=None)
@given(seeds, shapes, scales, st.integers(1, 50), st.sampled_from([0.0, 0.3, 1.0, 2.5]), st.booleans())
def test_every_distribution_sums_to_one(seed, shape, scale, k, temperature, exploit):
    led = led_distribution(random_logits(seed, *shape, scale=scale), k, temperature, exploit=exploit)
    for distribution in (led.exploit, led.explore, led.mu):
        assert (distribution >= 0).all()
        torch.testing.assert_close(distribution.sum(-1), torch.ones(shape[0]).double(), atol=1e-12, rtol=0)
    assert ((led.confidence >= 0) & (led.confidence <= 1)).all()


@settings(max_examples=80, deadline=None)
@given(seeds, shapes, scales, st.integers(1, 50), st.sampled_from([0.0, 0.2, 0.6, 1.0, 3.0]), st.booleans())
def test_agrees_with_loops_over_floats(seed, shape, scale, k, temperature, exploit):
    assert_is_led(random_logits(seed, *shape, scale=scale), k, temperature, exploit)


@pytest.mark.parametrize("depth", [1, 2, 8, 12])
@pytest.mark.parametrize("k", [1, 2, 8, 20])
def test_single_precision_agrees_with_loops_over_floats(depth, k):
    assert_is_led(random_logits(100 * depth + k, rows=16, depth=depth, dtype=torch.float32), k, 0.7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_logits_of_any_precision_are_computed_in_single_or_better(dtype):
    logits = random_logits(5, rows=12, dtype=dtype)
    led = assert_is_led(logits, 8, 0.6)
    assert led.mu.dtype == torch.promote_types(dtype, torch.float32)
    # as if the low-precision values had come in single precision
    exact = led_distribution(logits.to(led.mu.dtype), 8, 0.6)
    assert all(torch.equal(field, other) for field, other in zip(led, exact, strict=True))


def test_each_row_has_its_own_temperature():
    logits = random_logits(1, rows=5)
    temperatures = torch.tensor([0.0, 0.2, 0.7, 1.0, 2.0], dtype=torch.float64)
    led = assert_is_led(logits, 6, temperatures)
    for row, temperature in enumerate(temperatures.tolist()):
        alone = led_distribution(logits[row : row + 1], 6, temperature)
        torch.testing.assert_close(led.mu[row], alone.mu[0], atol=1e-12, rtol=0)
    for one in (0.7, torch.tensor(0.7).double(), torch.tensor([0.7]).double()):
        torch.testing.assert_close(led_distribution(logits, 6, one).mu[2], led.mu[2], atol=1e-7, rtol=0)


@settings(max_examples=30, deadline=None)
@given(seeds, shapes, st.integers(1, 20))
def test_permuting_rows_permutes_the_result(seed, shape, k):
    logits = random_logits(seed, *shape)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    for field, permuted in zip(led_distribution(logits, k), led_distribution(logits[order], k), strict=True):
        torch.testing.assert_close(permuted, field[order], atol=1e-12, rtol=0)


@settings(max_examples=30, deadline=None)
@given(seeds, shapes, st.integers(1, 20))
def test_permuting_the_vocabulary_permutes_the_result(seed, shape, k):
    logits = random_logits(seed, *shape)
    order = torch.randperm(shape[2], generator=torch.Generator().manual_seed(seed))
    led, permuted = led_distribution(logits, k), led_distribution(logits[..., order], k)
    torch.testing.assert_close(dense(permuted, shape[2]), dense(led, shape[2])[..., order], atol=1e-12, rtol=0)
    assert torch.equal(order[permuted.candidates], led.candidates)
    assert torch.equal(permuted.depth, led.depth)


@settings(max_examples=30, deadline=None)
@given(seeds, shapes, st.floats(-50, 50))
def test_a_constant_added_to_a_layer_changes_nothing(seed, shape, constant):
    logits = random_logits(seed, *shape)
    shifted = logits.clone()
    shifted[:, -1] += constant
    torch.testing.assert_close(led_distribution(shifted).mu, led_distribution(logits).mu, atol=1e-9, rtol=0)


def test_with_depth_one_exploring_is_exploiting():
    led = led_distribution(random_logits(2, depth=1), 8, 0.8)
    assert torch.equal(led.explore, led.exploit)
    assert torch.equal(led.depth, torch.zeros(4, dtype=torch.int64))
    final = torch.softmax(random_logits(2, depth=1)[:, 0] / 0.8, -1).topk(8)
    torch.testing.assert_close(led.mu, final.values / final.values.sum(-1, keepdim=True), atol=1e-5, rtol=0)


def test_mu_mixes_the_branches_by_the_confidence():
    led = led_distribution(random_logits(3), 8)
    weight = led.confidence[:, None]
    torch.testing.assert_close(led.mu, weight * led.exploit + (1 - weight) * led.explore, atol=1e-12, rtol=0)
    assert (led.mu - led.exploit).abs().max() > 0.01
    always = led_distribution(random_logits(3), 8, exploit=False)
    torch.testing.assert_close(always.mu, always.explore, atol=1e-15, rtol=0)


def test_the_chosen_depth_is_the_aggregate_of_largest_entropy():
    certain, elsewhere = torch.tensor([9.0, 0, 0, 0]), torch.tensor([0, 9.0, 0, 0])
    flat = torch.zeros(4)
    for layers, depth in (
        ([certain, flat], 1),
        ([flat, certain], 0),
        ([certain, certain, flat], 2),
        ([certain, flat, certain], 1),
        ([certain, flat, elsewhere], 2),
    ):
        led = assert_is_led(torch.stack(layers)[None], 4)
        assert led.depth.tolist() == [depth]
        assert entropy(led.explore) >= entropy(led.exploit) - 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 40.0])
def test_of_depths_that_tie_the_first_wins(dtype, scale):
    for seed in range(100):
        logits = random_logits(seed, depth=1, vocab=30, scale=scale, dtype=dtype).expand(-1, 8, -1)
        led = led_distribution(logits)
        assert led.depth.tolist() == [0] * 4, seed
        torch.testing.assert_close(led.explore, led.exploit, atol=0, rtol=0)


def test_tied_tokens_share_alike():
    logits = torch.zeros(2, 3, 10)
    logits[1, 0, :4] = 5.0  # four tokens tie for the top, six for the rest
    led = assert_is_led(logits, 6)
    torch.testing.assert_close(led.mu[0], torch.full((6,), 1 / 6))
    torch.testing.assert_close(led.mu[1, :4], led.mu[1, :1].expand(4))
    torch.testing.assert_close(led.mu[1, 4:], led.mu[1, 4:5].expand(2))


@settings(max_examples=40, deadline=None)
@given(seeds, shapes, st.integers(1, 50), st.sampled_from([0.0, 0.5, 1.0]), st.data())
def test_masked_tokens_are_never_drawn(seed, shape, k, temperature, data):
    logits = random_logits(seed, *shape)
    kept = data.draw(st.integers(1, shape[2]))
    forbidden = torch.randperm(shape[2], generator=torch.Generator().manual_seed(seed))[kept:]
    logits[:, 0, forbidden] = -INF  # the final layer alone is edited; latent layers may love the token
    logits[:, 1:, forbidden] += 20.0
    led = assert_is_led(logits, k, temperature)
    assert (dense(led, shape[2])[..., forbidden] == 0).all()
    assert ((led.mu > 0).sum(-1) <= min(k, kept)).all()
    torch.testing.assert_close(led.mu.sum(-1), torch.ones(shape[0]).double(), atol=1e-12, rtol=0)


def test_k_above_the_vocabulary_means_all_of_it():
    logits = random_logits(4, vocab=11)
    everything, more = led_distribution(logits, 11), led_distribution(logits, 1000)
    assert all(torch.equal(field, other) for field, other in zip(everything, more, strict=True))
    assert sorted(more.candidates[0].tolist()) == list(range(11))


def test_with_one_candidate_there_is_nothing_to_explore():
    led = led_distribution(random_logits(4), 1)
    assert torch.equal(led.mu, torch.ones(4, 1).double())
    assert torch.equal(led.candidates[:, 0], random_logits(4)[:, 0].argmax(-1))


def test_full_confidence_exploits():
    logits = random_logits(6, dtype=torch.float32)
    logits[:, 0, 7] = 1000.0
    led = assert_is_led(logits, 8)
    assert led.confidence.tolist() == [1.0] * 4
    assert torch.equal(led.mu, led.exploit)
    assert led.candidates[:, 0].tolist() == [7] * 4
    assert (led.explore - led.exploit).abs().max() > 1e-3  # the latent layers had another opinion


def test_candidates_that_underflow_keep_the_floor():
    logits = torch.full((1, 2, 5), -1000.0)
    logits[0, :, 3] = 0.0
    led = assert_is_led(logits, 4)
    floor = EPS / (1 + 3 * EPS)
    torch.testing.assert_close(led.exploit[0], torch.tensor([1 / (1 + 3 * EPS), floor, floor, floor]))
    assert (led.mu > 0).all()


def test_greedy_takes_each_branch_s_argmax_and_keeps_the_coin():
    logits = random_logits(7, rows=50)
    greedy, warm = led_distribution(logits, 8, 0.0), led_distribution(logits, 8, 1.0)
    assert torch.equal(greedy.confidence, warm.confidence)  # posteriors at temperature 1
    assert torch.equal(greedy.depth, warm.depth)
    assert torch.equal(greedy.exploit.argmax(-1), torch.zeros(50, dtype=torch.int64))
    assert torch.equal(greedy.explore.argmax(-1), warm.explore.argmax(-1))
    for branch in (greedy.exploit, greedy.explore):
        assert set(branch.unique().tolist()) == {0.0, 1.0}
    apart = greedy.explore.argmax(-1) != 0
    assert apart.any()
    assert torch.equal(greedy.mu[apart, 0], greedy.confidence[apart])


def test_entropy_of_known_distributions():
    distributions = torch.tensor([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]])
    torch.testing.assert_close(entropy(distributions), torch.tensor([0.0, math.log(4), math.log(2)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_logits": torch.zeros(2, 5)}, "rows, depth"),
        ({"layer_logits": torch.zeros(2, 0, 5)}, "depth >= 1"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"temperature": -0.5}, "got -0.5"),
        ({"temperature": INF}, "finite"),
        ({"temperature": torch.tensor([1.0, -1.0])}, ">= 0"),
        ({"temperature": torch.tensor([1.0, float("nan")])}, ">= 0"),
        ({"temperature": torch.ones(3)}, r"scalar or \(2,\)"),
        ({"temperature": torch.ones(2, 1)}, r"scalar or \(2,\)"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        led_distribution(**({"layer_logits": torch.zeros(2, 3, 5)} | arguments))
