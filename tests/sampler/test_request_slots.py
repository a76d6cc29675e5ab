"""Request slots: phases as the markers say, whatever joins and leaves, and uniform numbers that are uniform."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from led_rl.decoding import AGGREGATIONS, DecodingError, DecodingParams, decoding_of
from led_rl.methods.properties import DECODINGS
from led_rl.sampler.columns import AGGREGATION, COIN, DECODING, DEPTH, EXPLOIT, GREEDY, ORDER, K
from led_rl.sampler.request_slots import DecodingSlots
from led_rl.sampler.uniforms import key_of, uniforms
from led_rl.thinking import ThinkMarkers

CPU = torch.device("cpu")
LAYERS = 12
LED = {"led": 1}
WAITING = {"led": 1, "led_think_start": "marker"}
MARKERS = (
    ThinkMarkers(3, 4),
    ThinkMarkers(4, 3),
    ThinkMarkers(((5, 6), (5, 6, 7)), ((6, 5), (7,))),
    ThinkMarkers(((1, 1, 2),), ((1, 2, 1), (2, 2))),
    ThinkMarkers(((8,), (9, 8)), ((9, 9, 9, 9),)),
)


def follow(slots, at, tokens, positions):
    """(rows,) bool: which rows decode as their request asks."""
    at, tokens, positions = (torch.tensor(values, dtype=torch.int64) for values in (at, tokens, positions))
    return slots.at(at, torch.ones(len(at))).follow(tokens, positions)


def make_slots(count=6):
    return DecodingSlots(count, tuple(range(LAYERS - 1, LAYERS - 8, -1)), LAYERS, 3, CPU)


class Request:
    """A random stream of tokens in a slot, and where the engine stands in it."""

    def __init__(self, generator, slot, slots):
        self.slot = slot
        self.markers = generator.choice(MARKERS)
        self.extra_args = generator.choice([LED, WAITING])
        self.tokens = [generator.randrange(10) for _ in range(60)]
        self.prompt = generator.randrange(1, 20)
        self.admit(slots, self.prompt)

    def admit(self, slots, known):
        """As a new request, or one that resumes after preemption with what it has generated."""
        slots.admit(self.slot, self.extra_args, self.markers, self.tokens[:known], 0, 1.0)
        self.known, self.position = known, -1

    def thinks(self):
        """Whether the token after the one fed in last is thought."""
        unmarked = self.extra_args is LED
        return self.markers.thinking_mask(self.tokens[: self.position + 1], [0], unmarked)[0]


def test_phases_follow_the_markers_while_requests_join_and_leave():
    """Several marker sets in one table, prefill in chunks, preemption, rows in any order."""
    generator = random.Random(0)
    slots = make_slots()
    running: dict[int, Request] = {}
    seen = {True: 0, False: 0, "prefill": 0}
    for _ in range(1500):
        slot = generator.randrange(6)
        if slot not in running:
            running[slot] = Request(generator, slot, slots)
        elif generator.random() < 0.02:
            slots.release(slot)
            del running[slot]
        elif generator.random() < 0.02:  # preempted: all that was generated is prefilled again
            slots.release(slot)
            running[slot].admit(slots, max(running[slot].position + 1, running[slot].prompt))
        rows = generator.sample(sorted(running), generator.randint(1, len(running))) if running else []
        for row in rows:
            request = running[row]
            last_known = request.known - 1
            unfinished = request.position < last_known
            request.position = (
                generator.randint(request.position + 1, last_known) if unfinished else request.position + 1
            )
        over = [row for row in rows if running[row].position >= 59]
        for row in over:
            slots.release(row)
            del running[row]
        rows = [row for row in rows if row in running]
        spare = generator.randrange(3)  # requests that decode as usual
        at = rows + [slots.spare] * spare
        tokens = [running[row].tokens[running[row].position] for row in rows] + [3] * spare
        positions = [running[row].position for row in rows] + [5] * spare
        slots.flush()
        active = follow(slots, at, tokens, positions)
        assert not active[len(rows) :].any()
        for row, found in zip(rows, active.tolist(), strict=False):
            request = running[row]
            prefilling = request.position < request.known - 1
            assert found == (request.thinks() and not prefilling)
            seen["prefill" if prefilling else found] += 1
    assert min(seen.values()) > 200


def test_placeholders_of_async_scheduling_are_followed_on_the_device():
    slots = make_slots()
    slots.admit(2, LED, ThinkMarkers(3, 4), [9, 3, -1, -1], 0, 1.0)
    slots.flush()
    found = []
    for position, token in enumerate([9, 3, 8, 4, 8, 3], start=0):
        active = follow(slots, [2], [token], [position])
        found.append(bool(active))
    assert found == [False, True, True, False, False, True]


def test_a_slot_forgets_its_last_request():
    slots = make_slots()
    slots.admit(1, {"led": 1, "led_latent_layers": [6, 9], "led_k": 3}, MARKERS[0], [3], 5, 0.0)
    slots.flush()
    slots.sums[1] += 2.0
    slots.release(1)
    slots.flush()
    assert (slots.settings[1] == 0).all()
    assert slots.retired.tolist() == [2.0] * 3
    active = follow(slots, [1], [3], [7])
    assert not active.any()
    slots.admit(1, WAITING, MARKERS[1], [9], 6, 1.0)
    slots.flush()
    assert slots.sums[1].tolist() == [0.0] * 3
    assert slots.settings[1, [K, DEPTH, GREEDY]].tolist() == [8, 8, 0]


def test_a_slot_released_and_taken_between_two_steps_is_the_new_request_s():
    slots = make_slots()
    slots.admit(0, LED, MARKERS[0], [3], 1, 1.0)
    slots.flush()
    slots.release(0)
    slots.admit(0, {"led": 1, "led_k": 2}, MARKERS[0], [4], 1, 1.0)
    slots.flush()
    assert slots.settings[0, K] == 2
    assert not follow(slots, [0], [4], [0]).any()


@pytest.mark.parametrize(
    ("params", "column", "value"),
    [
        (DecodingParams("led_reference", depth=3), DECODING, DECODINGS.index("led_reference")),
        (DecodingParams("led", depth=3), DEPTH, 3),
        (DecodingParams("led", latent_layers=(6, 10)), DEPTH, 3),
        (DecodingParams("top_k_control"), DEPTH, 1),
        (DecodingParams("led", k=5), K, 5),
        (DecodingParams("led", exploit=False), EXPLOIT, 0),
        (DecodingParams("led"), COIN, 1),
        (DecodingParams("led", draw="marginal"), COIN, 0),
        (DecodingParams("led", aggregation="product"), AGGREGATION, AGGREGATIONS.index("product")),
    ],
)
def test_a_request_s_settings_lie_in_its_slot(params, column, value):
    slots = make_slots()
    slots.admit(4, params.to_extra_args(), MARKERS[0], [1, 2], 3, 0.7)
    slots.flush()
    assert slots.settings[4, column] == value
    layers = params.layers(LAYERS)
    assert [slots.captured[i] for i in slots.settings[4, ORDER : ORDER + len(layers)]] == list(layers)


def test_what_all_requests_share_is_told_apart_from_what_they_do_not():
    slots = make_slots()
    slots.admit(0, LED, MARKERS[0], [3], 1, 1.0)
    slots.admit(1, {"led": 1, "led_depth": 3}, MARKERS[0], [3], 1, 0.0)
    needs = slots.needs()
    assert (needs.k, needs.same_k, needs.latents, needs.same_depth) == (8, True, 7, False)
    assert (needs.shared[COIN], needs.shared[GREEDY]) == (1, None)
    slots.release(0)
    needs = slots.needs()
    assert (needs.latents, needs.same_depth, needs.shared[GREEDY]) == (2, True, 1)
    slots.admit(3, {"led_decoding": "top_k_control", "led_k": 20}, MARKERS[0], [3], 1, 1.0)
    needs = slots.needs()
    assert (len(needs.decodings), needs.k, needs.same_k) == (2, 20, False)


SEEDS = [0, 1, 2, 3, 1234, 2**31, 2**63 - 1, 1_000_003, 2_000_006]


def stream(seed, count, start=0):
    return uniforms(torch.full((count,), key_of(seed)), torch.arange(start, start + count))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_numbers_of_a_request_are_uniform(seed):
    numbers = stream(seed, 50_000)
    assert ((numbers >= 0) & (numbers <= 1 - 2**-52)).all()
    assert torch.equal(numbers * 2**52, (numbers * 2**52).round())
    assert kstest(numbers.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("position", [0, 1, 17, 16_384])
def test_the_numbers_of_neighbouring_seeds_are_uniform_at_each_position(position):
    keys = torch.tensor([key_of(seed) for seed in range(20_000)])
    numbers = uniforms(keys, torch.full_like(keys, position))
    assert kstest(numbers.numpy(), "uniform").pvalue > 1e-4
    assert abs(torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1]) < 4 / 20_000**0.5


def pairs_p_value(x, y, cells=16):
    """p-value of Pearson's chi-square test that (x, y) fall into all squares of a grid alike."""
    counts = torch.bincount((x * cells).long() * cells + (y * cells).long(), minlength=cells**2).double()
    expected = len(x) / cells**2
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum().item(), cells**2 - 1))


@pytest.mark.parametrize("lag", [1, 2, 7, 64, 1024])
def test_numbers_of_two_positions_are_independent(lag):
    numbers = stream(42, 60_000)
    x, y = numbers[:-lag], numbers[lag:]
    assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 4 / 60_000**0.5
    assert pairs_p_value(x, y) > 1e-4


@pytest.mark.parametrize(
    ("seed", "other"), [(0, 1), (1, 2), (7, 8), (5, 5 + 2**32), (0, 2**63 - 1), (10, 10 + 1_000_003)]
)
def test_numbers_of_two_seeds_are_independent(seed, other):
    x, y = stream(seed, 60_000), stream(other, 60_000)
    assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 4 / 60_000**0.5
    assert pairs_p_value(x, y) > 1e-4
    assert pairs_p_value(x[1:], y[:-1]) > 1e-4  # nor are they one stream, shifted


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 10**6)), min_size=1, max_size=20))
def test_a_number_depends_on_its_seed_and_position_alone(rows):
    keys, positions = torch.tensor([key_of(seed) for seed, _ in rows]), torch.tensor([p for _, p in rows])
    together = uniforms(keys, positions)
    for i in range(len(rows)):
        assert uniforms(keys[i : i + 1], positions[i : i + 1])[0] == together[i]


def test_the_generator_is_splitmix64():
    """Against its published C code, on the first states of a stream, in Python's integers."""
    state, mask = key_of(9) % 2**64, 2**64 - 1
    for position in range(100):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        assert stream(9, 1, position)[0].item() == (z >> 12) * 2.0**-52


def test_markers_that_no_request_uses_are_forgotten_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr("led_rl.sampler.request_slots.MOST_MARKERS", 12)
    generator = random.Random(0)

    def some(length):
        return tuple(generator.randrange(20) for _ in range(length))

    slots = DecodingSlots(8, (3, 2), 4, 8, CPU)
    live = {}
    for _ in range(1000):
        slot = generator.randrange(8)
        if slot in live and generator.random() < 0.3:
            slots.release(slot)
            del live[slot]
        elif slot not in live:
            markers = ThinkMarkers((some(2),), (some(generator.choice([1, 2, 3])),))
            live[slot] = (markers, list(some(4)))
            slots.admit(slot, {"led": 1, "led_depth": 3}, markers, live[slot][1], 0, 1.0)
        slots.flush()
        rows, fed = list(live.values()), some(len(live))
        thinks = follow(slots, list(live), fed, [len(tokens) for _, tokens in rows])
        for (markers, tokens), token, thinking in zip(rows, fed, thinks.tolist(), strict=True):
            tokens.append(token)
            assert thinking == markers.thinking_after(tokens, unmarked=True)
        assert len(slots._automata) <= 12


def test_what_is_remembered_of_a_request_does_not_pass_for_its_equals():
    assert decoding_of({"led": 1, "led_start_marker": [1, 5]}).start_marker == (1, 5)
    for equal in (True, 1.0):
        with pytest.raises(DecodingError, match="led_start_marker must be an integer"):
            decoding_of({"led": 1, "led_start_marker": [equal, 5]})
