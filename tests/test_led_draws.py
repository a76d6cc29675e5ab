"""How LED joins layers and draws: each aggregation against loops over floats, and the coin against mu."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_led import dense, loop_led, random_logits, scales, seeds, shapes

from led_rl.decoding import AGGREGATIONS
from led_rl.led import TIE, combine, explore_branch, inverse_cdf, led_distribution, toss_coin

SMALLEST_STEP = 2.0**-52
EXTREMES = (0.0, SMALLEST_STEP, 0.5, 1 - SMALLEST_STEP)


def double(values):
    """A tensor in float64 all the way: through float32, 1 - 2**-52 would be 1."""
    return torch.tensor(values, dtype=torch.float64)


def loop_explore(table, aggregation):
    """q and j* of one row, without tensors: `table` holds each layer's floored probabilities of the candidates."""
    aggregates = []
    for j in range(len(table)):
        if aggregation == "max_entropy_layer":
            values = list(table[j])
        elif aggregation == "product":
            logs = [math.fsum(math.log(layer[i]) for layer in table[: j + 1]) for i in range(len(table[0]))]
            values = [math.exp(log - max(logs)) for log in logs]
        else:
            values = [math.fsum(layer[i] for layer in table[: j + 1]) for i in range(len(table[0]))]
        aggregates.append([value / math.fsum(values) for value in values])
    if aggregation == "mean_all":
        return aggregates[-1], len(aggregates) - 1
    entropies = [-math.fsum(p * math.log(p) for p in aggregate if p > 0) for aggregate in aggregates]
    chosen = next(j for j, h in enumerate(entropies) if h >= max(entropies) - TIE)
    return aggregates[chosen], chosen


@settings(max_examples=60, deadline=None)
@given(seeds, shapes, scales, st.integers(1, 12), st.sampled_from([0.3, 1.0, 2.5]), st.sampled_from(AGGREGATIONS))
def test_each_aggregation_agrees_with_loops_over_floats(seed, shape, scale, k, temperature, aggregation):
    logits = random_logits(seed, *shape, scale=scale)
    led = led_distribution(logits, k, temperature, aggregation=aggregation)
    posteriors = (logits / temperature).softmax(-1)
    for row, candidates in enumerate(led.candidates):
        table = posteriors[row][:, candidates].clamp_min(1e-6).tolist()
        q, chosen = loop_explore(table, aggregation)
        torch.testing.assert_close(led.explore[row], double(q), atol=1e-9, rtol=0)
        assert led.depth[row] == chosen
        b = [value / math.fsum(table[0]) for value in table[0]]
        confidence = float(posteriors[row, 0].max())
        mu = [confidence * x + (1 - confidence) * y for x, y in zip(b, q, strict=True)]
        torch.testing.assert_close(led.mu[row], double(mu), atol=1e-9, rtol=0)


def test_the_default_aggregation_is_the_paper_s():
    logits = random_logits(11)
    led = led_distribution(logits)
    assert all(
        torch.equal(x, y) for x, y in zip(led, led_distribution(logits, aggregation="cumulative_sum"), strict=True)
    )
    for row in range(4):
        q = loop_led(logits[row].tolist(), led.candidates[row].tolist())[1]
        torch.testing.assert_close(led.explore[row], double(q), atol=1e-9, rtol=0)


def test_the_aggregations_differ_where_layers_do():
    logits = random_logits(12, rows=30)
    found = [led_distribution(logits, aggregation=name).explore for name in AGGREGATIONS]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert (one - other).abs().max() > 0.01


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_with_depth_one_each_aggregation_is_the_final_layer(aggregation):
    led = led_distribution(random_logits(2, depth=1), 8, 0.8, aggregation=aggregation)
    torch.testing.assert_close(led.explore, led.exploit, atol=1e-15, rtol=0)
    assert led.depth.tolist() == [0] * 4


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_no_aggregation_revives_a_masked_token(aggregation):
    logits = random_logits(13, vocab=12)
    logits[:, 0, 5:] = -math.inf
    logits[:, 1:, 5:] += 30.0
    led = led_distribution(logits, 8, aggregation=aggregation)
    assert (dense(led, 12)[..., 5:] == 0).all()
    torch.testing.assert_close(led.mu.sum(-1), torch.ones(4).double(), atol=1e-12, rtol=0)


def test_combine_gives_each_row_its_own_depth_and_k():
    logits = random_logits(8, rows=24, dtype=torch.float32)
    whole = logits.softmax(-1)
    candidates = logits[:, 0].topk(8).indices
    table = whole.gather(-1, candidates[:, None].expand(-1, 8, -1))
    depths, ks = torch.arange(24) % 8 + 1, torch.arange(24) % 7 + 2
    exploit = torch.arange(24) % 3 != 0
    led = combine(candidates, table, torch.arange(8) < ks[:, None], depth=depths, exploit=exploit)
    for row in range(24):
        depth, k = int(depths[row]), int(ks[row])
        alone = led_distribution(logits[row : row + 1, :depth], k, exploit=bool(exploit[row]))
        assert led.depth[row] == alone.depth[0]
        for name in ("exploit", "explore", "mu"):
            found = getattr(led, name)[row]
            torch.testing.assert_close(found[:k], getattr(alone, name)[0], atol=1e-6, rtol=0)
            assert (found[k:] == 0).all()


def test_rows_may_aggregate_each_in_its_own_way_and_depth():
    logits = random_logits(14, rows=32)
    candidates = logits[:, 0].topk(8).indices
    table = logits.softmax(-1).gather(-1, candidates[:, None].expand(-1, 8, -1))
    kinds, depths = torch.arange(32) % len(AGGREGATIONS), torch.arange(32) // 4 + 1
    led = combine(candidates, table, torch.ones(32, 8, dtype=torch.bool), depth=depths, aggregation=kinds)
    for row in range(32):
        name, depth = AGGREGATIONS[kinds[row]], int(depths[row])
        alone = led_distribution(logits[row : row + 1, :depth], aggregation=name)
        assert led.depth[row] == alone.depth[0]
        torch.testing.assert_close(led.explore[row], alone.explore[0], atol=1e-9, rtol=0)


def test_a_product_of_many_layers_does_not_underflow():
    posteriors = torch.full((1, 200, 4), 1e-6)
    posteriors[:, :, 0] = 1.0
    q, _ = explore_branch(posteriors, torch.ones(1, 4, dtype=torch.bool), aggregation="product")
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(), torch.tensor(1.0).double())


def drawn(led, uniform, exploit=None):
    """(uniforms, ) candidate index for each uniform number and one row of LED, coin first."""
    count = len(uniform)
    flag = None if exploit is None else torch.full((count,), exploit)
    explore, within = toss_coin(uniform, led.confidence.expand(count), flag)
    policy = torch.where(explore[:, None], led.explore.expand(count, -1), led.exploit.expand(count, -1))
    return explore, within, inverse_cdf(policy.double(), within)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("exploit", [True, False])
def test_the_coin_and_a_draw_within_its_branch_add_up_to_mu(seed, exploit):
    """The law of total probability, with the uniform number integrated over a fine grid of midpoints."""
    led = led_distribution(random_logits(seed, rows=1), 8, 0.9, exploit=exploit)
    grid = 1 << 20
    uniform = (torch.arange(grid).double() + 0.5) / grid
    explore, within, index = drawn(led, uniform, exploit)
    # each of the 8 candidates is drawn from two intervals at most; an interval's end misplaces one midpoint
    tolerance = 40 / grid
    share = torch.bincount(index, minlength=8) / grid
    torch.testing.assert_close(share.double(), led.mu[0].double(), atol=tolerance, rtol=0)
    weight = float(led.confidence) if exploit else 0.0
    assert explore.double().mean().item() == pytest.approx(1 - weight, abs=tolerance)
    for branch, probabilities in ((explore, led.explore), (~explore, led.exploit)):
        if branch.any():
            share = torch.bincount(index[branch], minlength=8) / branch.sum()
            torch.testing.assert_close(
                share.double(), probabilities[0], atol=tolerance / branch.double().mean(), rtol=0
            )
            # what is left of the uniform number is uniform again: its deciles hold a tenth each
            deciles = torch.histc(within[branch], 10, 0, 1) / branch.sum()
            torch.testing.assert_close(deciles, torch.full((10,), 0.1).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("uniform", EXTREMES)
@pytest.mark.parametrize("confidence", [0.0, 2**-60, 1e-7, 0.5, 1 - 1e-7, 1 - 2**-53, 1.0])
def test_what_the_coin_leaves_is_a_number_below_one(uniform, confidence):
    explore, within = toss_coin(double([uniform]), double([confidence]))
    assert 0 <= float(within) < 1
    assert bool(explore) == (uniform < 1 - confidence)


def test_certainty_never_explores_and_rows_without_exploit_always_do():
    uniform = double(EXTREMES)
    assert not toss_coin(uniform, torch.ones(4))[0].any()
    explore, within = toss_coin(uniform, torch.ones(4), torch.zeros(4, dtype=torch.bool))
    assert explore.all()
    assert torch.equal(within, uniform)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-300, 1e-18, 1e-6, 0.1, 0.3, 1.0, 1e18]), min_size=1, max_size=12),
    st.sampled_from(EXTREMES) | st.integers(0, 2**52 - 1).map(lambda i: i * SMALLEST_STEP),
)
def test_a_token_of_probability_zero_is_never_drawn(weights, uniform):
    if not any(weights):
        return
    index = int(inverse_cdf(double([weights]), double([uniform])))
    assert 0 <= index < len(weights)
    assert weights[index] > 0


def test_the_inverse_of_the_cdf_draws_each_index_as_often_as_its_weight():
    weights = double([[1.0, 0.0, 2.0, 5.0, 0.0]])
    uniform = (torch.arange(8000).double() + 0.5) / 8000
    counts = torch.bincount(inverse_cdf(weights.expand(8000, -1), uniform), minlength=5)
    assert counts.tolist() == [1000, 0, 2000, 5000, 0]
