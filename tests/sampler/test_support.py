"""A step's supports as records: against the rows taken one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from led_rl.sampler.drawn import Drawn
from led_rl.sampler.support import SHARES, StepSupport, packed, read_record


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 9),
    vocab=st.integers(9, 40),
    k=st.integers(1, 8),
    on_device=st.booleans(),
    truncated=st.booleans(),
)
def test_records_name_what_each_row_could_draw(seed, rows, vocab, k, on_device, truncated):
    generator = torch.Generator().manual_seed(seed)
    special = torch.rand(rows, generator=generator) < 0.5
    candidates = torch.stack([torch.randperm(vocab, generator=generator)[:k] for _ in range(rows)])
    policy = torch.rand(rows, k, generator=generator).double()
    policy[:, 1:][torch.rand(rows, k - 1, generator=generator) < 0.3] = 0  # masked candidates
    explored = torch.rand(rows, generator=generator).double()
    scores = torch.randn(rows, vocab, generator=generator)
    scores[torch.rand(rows, vocab, generator=generator) < 0.6] = -torch.inf
    scores[:, 0] = 0.0
    scores[::3] = 1.0  # rows that no truncation touches
    index = special.nonzero().squeeze(1)
    drawn = None
    if on_device:
        drawn = Drawn(torch.arange(rows), special, candidates[:, 0], candidates, policy, explored)
    elif len(index):
        kept = candidates[index]
        drawn = Drawn(index, None, kept[:, 0], kept, policy[index], explored[index])
    support = StepSupport.of(torch.empty(rows, vocab), drawn, scores if truncated else None)
    ids, offsets = support.lists()
    assert ids.dtype == np.int32
    for row in range(rows):
        found, share = read_record(ids[offsets[row] : offsets[row + 1]].tolist())
        if special[row]:
            assert found == candidates[row][policy[row] > 0].tolist()
            assert share == pytest.approx(explored[row].item(), abs=0.51 / SHARES)
            continue
        assert share == -1
        kept = (scores[row] > -torch.inf).nonzero().squeeze(1).tolist()
        assert found == (kept if truncated and len(kept) < vocab else [])


def test_a_bit_for_each_id():
    mask = torch.rand(5, 21) < 0.5
    assert torch.equal(torch.from_numpy(np.unpackbits(packed(mask).numpy(), axis=1, count=21, bitorder="little")), mask)
