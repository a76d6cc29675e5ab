"""Batches of several decodings: each row is drawn as in a batch of its own kind, and DoLa and near_final as defined."""

import pytest
import torch
from draw_cases import LAYERS, ROWS, Model, admit_request, decoder, drawn_rows

from led_rl.decoding import decoding_of
from led_rl.methods.dola import dola
from led_rl.methods.near_final import near_final

VOCAB, THINK = 60, 3
LED = [{"led": 1, "led_draw": "marginal"}, {"led": 1, "led_depth": 3}, {"led_decoding": "top_k_control", "led_k": 5}]
OTHERS = [
    {"led_decoding": "dola", "led_k": 30},
    {"led_decoding": "dola", "led_dola_layers": "high", "led_dola_relative_top": 0.5, "led_latent_norm": 1},
    {"led_decoding": "dola", "led_dola_layers": [6, 1], "led_dola_relative_top": 0},
    {"led_decoding": "near_final"},
    {"led_decoding": "near_final", "led_near_final_layers": 2, "led_k": 7},
    {"led_decoding": "led_reference"},
]
TEMPERATURES = [0.0, 0.5, 1.0, 1.7]


def kind_of(row):
    """The row's request: LED and the control in every second row, one of the others or none in between."""
    if row % 2 == 0:
        return LED[row // 2 % len(LED)]
    return [*OTHERS, None][row // 2 % (len(OTHERS) + 1)]


def draw(model, logits, wanted, steps=3):
    """Each step's (token, candidates, policy) of the rows whose request is `wanted`; the others are standard."""
    each = decoder(False, VOCAB, baselines=("dola_low", "dola_high", "dola=6+1", "near_final"))
    slots = torch.tensor([row if wanted(kind_of(row)) else ROWS for row in range(ROWS)])
    for row in range(ROWS):
        if wanted(kind_of(row)):
            markers = {"led_start_marker": [THINK], "led_end_marker": [4]}
            admit_request(each, row, kind_of(row) | markers, TEMPERATURES[row % 4], [7, THINK])
    temperature = torch.tensor([TEMPERATURES[row % 4] for row in range(ROWS)])
    found = []
    for step in range(steps):
        model.led_states.tokens.fill_(9)
        model.led_states.tokens[::5] = 4  # these rows think no more, from the second step on
        model.led_states.positions.fill_(1 + step)
        drawn = each.draw(model, logits[step].clone(), slots, temperature)
        at = drawn_rows(drawn)
        found.append(
            {row: (drawn.tokens[i], drawn.candidates[i].clone(), drawn.policy[i].clone()) for row, i in at.items()}
        )
    return found, each.totals()


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(5)
    model, logits = Model(VOCAB), torch.randn(3, ROWS, VOCAB) * 2
    logits[:, :, 11] = -torch.inf  # forbidden
    logits[:, 1::6] = -torch.inf  # no distribution: token 0
    return model, logits


def nonzero(row):
    """The policy by token, where it is above zero, and the token drawn."""
    token, candidates, policy = row
    return int(token), {int(c): float(p) for c, p in zip(candidates, policy, strict=True) if p > 0}


def test_rows_of_led_and_of_others_are_bit_identical_alone_and_together(case):
    together, totals = draw(*case, lambda keys: keys is not None)
    alone = [draw(*case, lambda keys: keys is not None and keys in LED)]
    alone += [draw(*case, lambda keys, name=name: keys is not None and keys.get("led_decoding") == name)
              for name in ("dola", "near_final", "led_reference")]  # fmt: skip
    for step in range(3):
        apart = {row: nonzero(found) for steps, _ in alone for row, found in steps[step].items()}
        assert {row: nonzero(found) for row, found in together[step].items()} == apart
    assert len(together[0]) > len(together[1]) > 20  # some ended their thought
    for name in ("rows", "read", "undrawable"):
        assert totals[name] == sum(part[name] for _, part in alone)
    for token, candidates, policy in together[0].values():
        assert len(set(candidates.tolist())) == len(candidates)
        assert policy.sum() == pytest.approx(1)
        assert policy[candidates == token] > 0


@pytest.mark.parametrize("name", ["dola", "near_final"])
def test_the_policy_is_the_method_s_over_the_row_s_own_layers(case, name):
    model, logits = case
    found, totals = draw(*case, lambda keys: keys is not None)
    captured = [*range(LAYERS - 1, 0, -1), 0]  # deepest first; the bucket `low` adds the embedding
    checked = 0
    for step in range(3):
        for row, drawn in found[step].items():
            keys = kind_of(row)
            if keys.get("led_decoding") != name:
                continue
            token, policy = nonzero(drawn)
            assert 11 not in policy
            if logits[step, row].isneginf().all():
                assert policy == {0: 1.0}
                continue
            params, temperature = decoding_of(keys), TEMPERATURES[row % 4]
            states = [model.led_states.states[captured.index(layer), row] for layer in params.layers(LAYERS)]
            latent = [((torch.tanh(s) if params.normed else s) @ model.weight.T)[None] for s in states]
            final = logits[step, row][None] * (temperature or 1.0)
            k = min(params.k, VOCAB)
            settings = {"temperature": temperature or 1.0, "greedy": torch.tensor([temperature == 0])}
            if name == "dola":
                values, candidates = final.topk(k)
                top = params.dola_relative_top
                expected = dola(final, latent, candidates, ~values.isneginf(), relative_top=top, **settings).policy
            else:
                candidates, expected, *_ = near_final(final, latent, k, **settings)
            whole = torch.zeros(VOCAB, dtype=torch.float64).scatter(0, candidates[0], expected[0])
            mine = torch.zeros(VOCAB, dtype=torch.float64)
            mine[list(policy)] = torch.tensor(list(policy.values()), dtype=torch.float64)
            torch.testing.assert_close(mine, whole, atol=1e-5, rtol=1e-4)
            assert whole[token] > 0
            checked += 1
    assert checked > 8
    assert totals["read"] > 0
