"""Per-request decoding state on the device: one slot a request, updated in the decode loop without a host sync."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from led_rl.decoding import DecodingParams
from led_rl.thinking import ThinkMarkers

# Columns of the settings table; the columns from ORDER on hold each row's layers, as indices into its table of depths.
KNOWN, LED, DEPTH, K, EXPLOIT, THINK_ONLY, NORMED, ORDER = range(8)


@dataclass(frozen=True)
class Needs:
    """What the admitted requests need of a step, at most."""

    k: int
    latents: int  # latent layers that one request reads
    deepest: int  # captured layers, from the deepest on, that the requests read
    latent_norm: bool  # whether any request has it on


class DecodingSlots:
    """Settings and thinking phase of up to `count` requests, plus one spare slot for rows that decode as usual."""

    def __init__(self, count: int, captured_layers: tuple[int, ...], num_layers: int, device: torch.device):
        self.captured = captured_layers
        self.num_layers = num_layers
        self.device = device
        self.spare = count
        width = ORDER + 1 + len(captured_layers)
        self.settings = torch.zeros(count + 1, width, dtype=torch.int64, device=device)
        self.phase = torch.zeros(count + 1, dtype=torch.bool, device=device)
        self.free = list(range(count))
        self.decoding: dict[int, DecodingParams] = {}
        self._needs: Needs | None = None

    def admit(self, params: DecodingParams, markers: ThinkMarkers | None, token_ids: Sequence[int]) -> int:
        """Takes a slot for a request of which `token_ids` (prompt, and output so far) are known; returns it.

        Tokens not known yet (async scheduling leaves -1 placeholders) are followed on the device instead.
        """
        known = next((i for i, token in enumerate(token_ids) if token < 0), len(token_ids))
        unmarked = params.think_start == "prompt"
        thinking = markers is None or markers.thinking_after(token_ids[:known], unmarked)
        # Index 0 of the table of depths is the final layer, 1 + i the i-th captured layer.
        order = [0, *(1 + self.captured.index(layer) for layer in params.layers(self.num_layers))]
        row = [0] * self.settings.shape[1]
        row[KNOWN], row[LED], row[DEPTH], row[K] = known, params.decoding == "led", len(order), params.k
        row[EXPLOIT], row[THINK_ONLY], row[NORMED] = params.exploit, params.think_only, params.latent_norm
        row[ORDER : ORDER + len(order)] = order
        slot = self.free.pop()
        self.settings[slot] = torch.tensor(row).to(self.device, non_blocking=True)
        self.phase[slot] = thinking
        self.decoding[slot] = params
        self._needs = None
        return slot

    def needs(self) -> Needs:
        """Of the requests admitted now, at least one; worked out when they change, not at every step."""
        if self._needs is None:
            requests = set(self.decoding.values())
            read = [params.layers(self.num_layers) for params in requests]
            self._needs = Needs(
                k=max(params.k for params in requests),
                latents=max(map(len, read)),
                deepest=max((1 + self.captured.index(layer) for layers in read for layer in layers), default=0),
                latent_norm=any(params.latent_norm for params in requests),
            )
        return self._needs

    def release(self, slot: int) -> None:
        del self.decoding[slot]
        self._needs = None
        self.free.append(slot)

    def explore_mask(self, slots: Tensor, tokens: Tensor, positions: Tensor, markers: ThinkMarkers | None) -> Tensor:
        """Follows the think markers and says which rows decode with their request's decoding now: (rows,) bool.

        Args:
            slots: (rows,) slot of each row, `spare` for rows that decode as usual.
            tokens: (rows,) token fed in at each row.
            positions: (rows,) its position. Only tokens past what the host scanned at admission count: a chunk of
                prefill may end on a marker that a later prompt token overrules.
        """
        settings = self.settings[slots]
        phase = self.phase[slots]
        if markers is not None:
            fresh = positions >= settings[:, KNOWN]
            phase = torch.where(fresh & (tokens == markers.start), True, phase)
            phase = torch.where(fresh & (tokens == markers.end), False, phase)
            self.phase[slots] = phase  # slots are unique but for the spare one, whose phase nobody reads
        return (slots != self.spare) & (phase | (settings[:, THINK_ONLY] == 0))
