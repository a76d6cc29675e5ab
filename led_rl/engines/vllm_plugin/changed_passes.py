"""Forward passes that requests change: mixes in the place of token embeddings, and noise after decoder layers.

Before each pass the runner says which tokens of the step belong to such requests (`ChangedPasses.begin`). A decoded
token finds what to change in the tables that its draw filled (sampler/carried.py), on the device; the tokens of a
request that is computed anew after a preemption find it in the history on the host.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from led_rl.engines.vllm_plugin.mixed_inputs import MixedInputs
from led_rl.engines.vllm_plugin.noisy_layers import LayerNoise
from led_rl.methods.latent_noise import middle_layers
from led_rl.sampler.carried import POSITION, SCALE, Carried, parts
from led_rl.sampler.columns import KEY
from led_rl.sampler.request_slots import DecodingSlots


class StepRequest(NamedTuple):
    """One request's tokens of a step."""

    name: str  # vLLM's id of the request
    slot: int
    start: int  # index of its first token among the step's tokens
    position: int  # of that token in its sequence
    tokens: int  # how many


class ChangedPasses:
    """Sets up what the coming forward pass changes.

    Attributes:
        mixes: what decodes mix, None if the engine was not built for it.
        noise: what is added after decoder layers, likewise.
        past: by request that is computed anew, what its earlier passes were given, by position.
    """

    def __init__(self, mixes: MixedInputs | None, noise: LayerNoise | None):
        self.mixes, self.noise = mixes, noise
        self.past: dict[str, dict[int, Tensor]] = {}

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.mixes is None else {"led_mixes_on": self.mixes.on, "led_mixes_values": self.mixes.values}

    def begin(self, slots: DecodingSlots, requests: Sequence[StepRequest], input_ids: Tensor) -> None:
        """Before each step's forward pass. `input_ids`: (tokens,) of the step, on the device."""
        carried = slots.carried
        assert carried is not None
        carried.names = [(request.name, request.slot) for request in requests]
        if self.mixes is not None:
            self.mixes.clear()
        if self.noise is not None:
            self.noise.clear()
        if not requests:
            return
        slots.flush()
        for request in requests:
            if request.slot in slots.arrived:
                self._arrive(slots, carried, request)
        self._change_decodes(slots, carried, requests, input_ids)
        if self.past:
            self.past = {name: rows for name, rows in self.past.items() if name in carried.history.keys}  # not aborted
            self._change_again(slots, requests)

    def _change_decodes(
        self, slots: DecodingSlots, carried: Carried, requests: Sequence[StepRequest], input_ids: Tensor
    ) -> None:
        """Changes the last token of each request, if its draw handed something on and it still thinks."""
        columns = zip(*((r.start + r.tokens - 1, r.slot, r.position + r.tokens - 1) for r in requests), strict=True)
        tokens, rows, positions = slots.to_device([list(column) for column in columns])  # (m,) each
        figures = carried.figures[rows]
        changes = (figures[:, POSITION] == positions) & slots.thinks_after(rows, input_ids[tokens].long(), positions)
        k = carried.k
        if self.mixes is not None and k:
            self.mixes.put(tokens, carried.ids[rows, :k], carried.weights[rows, :k], changes)
        if self.noise is not None:
            layers = [disturbed(slots, request.slot) for request in requests]
            scale = torch.where(changes, figures[:, SCALE], 0.0)
            self.noise.put(tokens, slots.settings[rows, KEY], positions, scale, layers)

    def _arrive(self, slots: DecodingSlots, carried: Carried, request: StepRequest) -> None:
        """Takes in a request that was admitted since the last step; it may have been here before."""
        known = slots.arrived.pop(request.slot)
        held = slots.slots[request.slot]
        key = carried.history.keys.setdefault(request.name, held.row[KEY])
        if key != held.row[KEY]:
            held.row[KEY] = slots.settings[request.slot, KEY] = key
        found = {p: row for p, row in carried.history.of(request.name, held.mixes).items() if p < len(known)}
        if not found:
            return
        last = found.get(len(known) - 1)
        if last is not None:
            carried.restore(request.slot, last)
        thinks = held.thinks_after_each(known)
        if earlier := {p: row for p, row in found.items() if thinks[p] and p < len(known) - 1}:
            self.past[request.name] = earlier

    def _change_again(self, slots: DecodingSlots, requests: Sequence[StepRequest]) -> None:
        """Changes tokens of requests that are computed anew as their first passes were changed."""
        for request in requests:
            past = self.past.get(request.name)
            if past is None:
                continue
            end = request.position + request.tokens
            here = [p for p in range(request.position, end) if p in past]
            if end > max(past):
                del self.past[request.name]
            if not here:
                continue
            figures, ids, weights = parts(torch.stack([past[p] for p in here]).to(slots.device))
            tokens = slots.to_device([request.start + p - request.position for p in here])
            if self.mixes is not None and ids.shape[1]:
                self.mixes.put(tokens, ids, weights, torch.ones_like(tokens, dtype=torch.bool))
            if self.noise is not None:
                keys = slots.settings[request.slot, KEY].expand(len(here))
                layers = [disturbed(slots, request.slot)] * len(here)
                self.noise.put(tokens, keys, slots.to_device(here), figures[:, SCALE], layers)


def disturbed(slots: DecodingSlots, slot: int) -> Sequence[int]:
    """The layers after which a slot's request gets noise."""
    params = slots.slots[slot].params
    if params.decoding != "latent_noise":
        return ()
    return middle_layers(slots.num_layers) if params.noise_layers is None else params.noise_layers


def forget_finished(original: Callable[..., None]) -> Callable[..., None]:
    """Wraps `GPUModelRunner.finish_requests` of runner V2, which also removes requests that are only preempted."""

    def finish_requests(self: Any, scheduler_output: Any) -> None:
        original(self, scheduler_output)
        if hasattr(self.model_state, "led_forget"):
            self.model_state.led_forget(scheduler_output.finished_req_ids)

    return finish_requests
