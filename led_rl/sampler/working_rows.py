"""A working copy of the slots of one batch (request_slots.py), in the order of its rows."""

from typing import Any

import torch
from torch import Tensor

from led_rl.sampler.columns import GREEDY, KEY, KNOWN


class Working:
    """What the slots of one batch hold, in the order of its rows.

    Attributes:
        index: (rows,) slots.
        rows: (rows,) 0, 1, ...
        settings: (rows, columns) and `keys`, `known` of them; `known_column` as (rows, 1) float64.
        temperature: (rows,), 1 for greedy rows.
        state, sums: as in the tables, to be written back.
        host: settings, state and sums as NumPy arrays over the same memory, on CPU.
    """

    def __init__(self, slots: Any, index: Tensor, temperature: Tensor):
        self.slots = slots
        self.index = index
        self.rows = torch.arange(len(index), device=index.device)
        self.settings = slots.settings[index]
        self.keys, self.known = self.settings[:, KEY], self.settings[:, KNOWN]
        self.known_column = self.known[:, None].double()
        self.temperature = torch.where(self.settings[:, GREEDY].bool(), 1.0, temperature)
        self.state, self.sums = slots.state[index], slots.sums[index]
        self._last_known = self.known - 1
        self.host = () if index.is_cuda else tuple(t.numpy() for t in (self.settings, self.state, self.sums))

    def follow(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Follows the think markers and says which rows decode as their request asks now, (rows,) bool.

        Args:
            tokens: (rows,) token fed in at each row.
            positions: (rows,) its position. Only tokens past what the host scanned at admission count: a chunk of
                prefill may end on a marker that a later prompt token overrules. Rows of an unfinished prefill decode
                as usual: their token is thrown away.
        """
        self.state = self.slots.state_after(self.state, tokens, positions, self.known)
        return self.slots.thinks[self.state] & (positions >= self._last_known)
