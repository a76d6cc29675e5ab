"""The support of each sampled token: the ids that could have been drawn in its place, for the loss to normalise over.

A row of LED or of the top-k control is drawn from its candidates, a standard row from what top-k, top-p and min-p left,
and a row without truncation from the whole vocabulary. The record of a token is a list of integers:

* `[]`: drawn from the whole vocabulary;
* `[id, id, ...]`: a standard row after truncation;
* `[-1 - round(10000 * explored), id, ...]`: a row of LED or of the control, its candidates in the policy's order (the
  final layer's most probable first), behind the probability that it was drawn from latent layers (0 or 1 after a coin).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from led_rl.sampler.drawn import Drawn

SHARES = 10_000  # steps in which a record counts the probability of exploring


@dataclass
class StepSupport:
    """The supports of one step's rows, perhaps still on their way to the host; `lists` waits for nothing.

    Attributes:
        candidates: (rows, k) int32 ids of rows with a decoding other than standard, -1 where the policy is 0.
        explored: (rows,) float32 probability of having been drawn from latent layers; -1 for standard rows.
        kept: (rows, ceil(vocab / 8)) uint8, a bit for each id that truncation kept; None: no row is truncated.
        vocab: size of the vocabulary.
    """

    candidates: Tensor
    explored: Tensor
    kept: Tensor | None
    vocab: int

    @classmethod
    def of(
        cls,
        logits: Tensor,
        drawn: Drawn | None,
        scores: Tensor | None,
    ) -> "StepSupport":
        """Reads a step's draw.

        Args:
            logits: (rows, vocab) of the step; only its shape and device count.
            drawn: its rows with another decoding than standard; None if there are none.
            scores: (rows, vocab) processed log-probabilities if a standard row is truncated: -inf where it cannot go.
        """
        (rows, vocab), device = logits.shape, logits.device
        kept = None if scores is None else packed(scores > -torch.inf)
        if drawn is None:
            candidates = torch.full((rows, 1), -1, dtype=torch.int32, device=device)
            explored = torch.full((rows,), -1.0, dtype=torch.float32, device=device)
        else:
            ids = torch.where(drawn.policy > 0, drawn.candidates, -1).int()
            share = drawn.explored.float()
            if drawn.active is not None:  # on a device every row is drawn, in order
                candidates, explored = ids, torch.where(drawn.active, share, -1.0)
            else:
                candidates = ids.new_full((rows, ids.shape[1]), -1).index_copy_(0, drawn.rows, ids)
                explored = share.new_full((rows,), -1.0).index_copy_(0, drawn.rows, share)
        host = (None if t is None else t.to("cpu", non_blocking=True) for t in (candidates, explored, kept))
        return cls(*host, vocab)  # type: ignore[arg-type,call-arg]

    def without_ids(self) -> "StepSupport":
        """The branch of each row alone: records are `[-1 - round(10000 * explored)]`, and `[]` of standard rows."""
        return replace(self, candidates=self.candidates[:, :0])

    def lists(self) -> tuple[np.ndarray, np.ndarray]:
        """Records of all rows, one after the other, (entries,) int32, and where each begins, (rows + 1,) int64."""
        explored = self.explored.numpy()
        rows = np.concatenate([np.full((len(explored), 1), -1, np.int32), self.candidates.numpy()], axis=1)
        special = explored >= 0
        rows[:, 0] = -1 - np.round(explored * SHARES).astype(np.int32)
        wanted = rows >= 0
        wanted[:, 0] = True
        wanted &= special[:, None]
        records = [rows[i][wanted[i]] for i in range(len(rows))] if self.kept is not None else None
        if records is None:
            return rows[wanted], np.concatenate([[0], wanted.sum(1).cumsum()])
        assert self.kept is not None
        for row in np.flatnonzero(~special):
            ids = np.flatnonzero(np.unpackbits(self.kept[row].numpy(), count=self.vocab, bitorder="little"))
            records[row] = ids.astype(np.int32) if len(ids) < self.vocab else records[row]
        return np.concatenate(records), np.concatenate([[0], np.cumsum([len(record) for record in records])])


def packed(mask: Tensor) -> Tensor:
    """(rows, ceil(n / 8)) uint8 of a (rows, n) bool, the first id in the lowest bit."""
    padded = torch.nn.functional.pad(mask, (0, -mask.shape[1] % 8)).view(mask.shape[0], -1, 8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=mask.device)
    return (padded * weights).sum(-1, dtype=torch.uint8)


def read_record(record: Sequence[int]) -> tuple[list[int], float]:
    """Ids that a token's record names, in order, and its probability of exploring: -1 for a standard row."""
    if record and record[0] < 0:
        return list(record[1:]), (-1 - record[0]) / SHARES
    return list(record), -1.0
