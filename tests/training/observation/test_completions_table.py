"""Marks of explored tokens."""

from led_rl.training.observation.completions import mark, shares_of


def test_tokens_that_came_from_latent_layers_are_marked():
    records = [[-1 - 2500, 7, 8], [-1 - 5000, 7], [-1 - 10000, 9, 7], [-1, 7], [], [7, 8]]
    assert shares_of(records) == [0.25, 0.5, 1.0, 0.0, None, None]
    assert mark("abcdef", shares_of(records)) == "a⟦bc⟧def"
    assert mark("ab", [0.0, 1.0]) == "a⟦b⟧"
    assert mark("", []) == ""
