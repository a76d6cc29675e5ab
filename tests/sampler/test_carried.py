"""What draws hand on to the next forward pass, and what is kept of it for requests that are preempted."""

import torch

from led_rl.sampler.carried import Carried, NextInput, end_token
from led_rl.thinking import ThinkMarkers

SLOTS = torch.tensor([2, 0])


def given(scale=0.25):
    return NextInput(
        torch.tensor([[7, 8, 9], [4, 5, 0]]),
        torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]]),
        torch.tensor([1.0, 0.0]),
        torch.tensor([scale, 0.0]),
    )


def test_rows_find_what_was_put_at_their_position_and_at_no_other():
    carried = Carried(3, 4, torch.device("cpu"))
    carried.put(SLOTS, torch.tensor([11, 5]), given(), None)
    rows = carried.rows(torch.tensor([2, 0, 1]), torch.tensor([11, 6, -1]))
    assert rows.changed[:2].tolist() == [True, False]
    assert rows.low[:2].tolist() == [1.0, 0.0]
    assert carried.ids[2].tolist() == [7, 8, 9, 0]


def test_masked_rows_keep_what_they_had_and_a_slot_taken_anew_has_nothing():
    carried = Carried(3, 4, torch.device("cpu"))
    carried.put(SLOTS, torch.tensor([11, 5]), given(), None)
    before = carried.weights.clone()
    carried.put(SLOTS, torch.tensor([12, 6]), given(9.0), torch.tensor([False, True]))
    assert torch.equal(carried.weights, before)
    assert carried.figures[:, 0].tolist() == [6.0, -1.0, 11.0, -1.0]
    carried.stage(2, (20, 0.9, 0.1), ThinkMarkers(((3,),), ((4,),)))
    carried.flush()
    assert carried.figures[2].tolist() == [-1.0, 0.0, 0.0]
    assert carried.settings[2].tolist() == [20.0, 0.9, 0.1, 4.0]  # in float64


def test_a_slot_is_restored_from_the_history():
    carried = Carried(3, 4, torch.device("cpu"))
    carried.k = 3
    carried.names = [("a", 2), ("b", 0)]
    for position in (10, 11, 12):
        carried.k = 4 if position == 10 else 3  # as long as another request mixes more tokens
        carried.put(SLOTS, torch.tensor([position, 5]), given(position / 64), None)
        carried.record()
    kept = carried.figures[2].clone(), carried.ids[2].clone(), carried.weights[2].clone()
    found = carried.history.of("a", 3)
    assert sorted(found) == [10, 11, 12]
    assert {len(row) for row in found.values()} == {3 + 2 * 3}
    assert sorted(carried.history.of("b", 3)) == [5]
    carried.stage(2, (0, 1.0, 0.0), None)
    carried.flush()
    carried.weights.fill_(0.7)
    carried.restore(2, found[12])
    assert all(map(torch.equal, kept, (carried.figures[2], carried.ids[2], carried.weights[2])))
    carried.history.keys = {"a": 1, "b": 2}
    carried.history.keep({"b"})
    assert not carried.history.of("a", 3)
    assert carried.history.keys == {"b": 2}


def test_the_token_that_ends_thinking():
    assert end_token(ThinkMarkers(((3,),), ((4,),))) == 4
    assert end_token(ThinkMarkers(((3,),), ((4, 5),))) is None
    assert end_token(ThinkMarkers(((3,),), (("a",),))) is None
    assert end_token(ThinkMarkers(((3,),), ((4,), (5,)))) is None
