"""LED in vLLM's V2 model runner (the default on GPUs).

Through its own doors alone: the model names a `ModelState`, which is told of requests and inputs and supplies the
sampler. vLLM samples every row its own way, and rows of ours take our token instead: asking the device which rows still
think would be a sync.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from led_rl.engines.decoding_slots import decoding_of
from led_rl.engines.request_decoder import Drawn, RequestDecoder
from led_rl.engines.vllm_models import take_sampled_rows


class LEDModelState(DefaultModelState):
    """Tells the decoder which requests there are, and the model which tokens of a step will be sampled."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.led_decoder = RequestDecoder(self.vllm_config, self.max_num_reqs, self.device)
        self.led_slot_of: dict[str, int] = {}

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        super().add_request(req_index, new_req_data)
        params = new_req_data.sampling_params
        if params is not None and not decoding_of(params.extra_args).is_standard:
            # The prompt, and after preemption what had been generated.
            self.led_decoder.admit(req_index, params, new_req_data.prefill_token_ids)
            self.led_slot_of[new_req_data.req_id] = req_index

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        if (slot := self.led_slot_of.pop(req_id, None)) is not None:
            self.led_decoder.slots.release(slot)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        self.model.led_states.begin(input_batch.logits_indices)  # type: ignore[union-attr, operator]
        return super().prepare_inputs(input_batch, req_states)

    def custom_sampler(self, sampler: Any) -> tuple[Any, None]:
        sampler.__class__ = sampling_with(type(sampler))
        sampler.led_decoder = self.led_decoder
        sampler.led_is_ours = np.zeros(self.max_num_reqs, dtype=bool)
        sampler.led_drawn = None
        # The decoder draws where logits carry the temperature and all edits, but no min-p, top-k or top-p yet.
        states = sampler.sampling_states
        apply_min_p = states.apply_min_p

        def draw_and_apply_min_p(logits: Tensor, expanded_idx_mapping: Tensor, idx_mapping_np: np.ndarray) -> None:
            sampler.led_draw(logits, expanded_idx_mapping, idx_mapping_np)
            apply_min_p(logits, expanded_idx_mapping, idx_mapping_np)

        states.apply_min_p = draw_and_apply_min_p
        return sampler, None


def sampling_with(sampler_class: type) -> type:
    return type(f"LED{sampler_class.__name__}", (LEDSamplerMixin, sampler_class), {})


class LEDSamplerMixin:
    """Put before vLLM's V2 `Sampler` in the MRO."""

    led_decoder: RequestDecoder
    led_drawn: Drawn | None

    def add_request(self, req_idx: int, sampling_params: Any, *args: Any, **kwargs: Any) -> None:
        super().add_request(req_idx, sampling_params, *args, **kwargs)  # type: ignore[misc]
        ours = not decoding_of(sampling_params.extra_args).is_standard
        self.led_is_ours[req_idx] = ours  # type: ignore[attr-defined]
        if ours:
            self.needs_logits_processing[req_idx] = True  # type: ignore[attr-defined]

    def led_draw(self, logits: Tensor, slots: Tensor, slots_np: np.ndarray) -> None:
        """Draws our rows from logits after temperature."""
        if not self.led_is_ours[slots_np].any():  # type: ignore[attr-defined]
            return
        model = take_sampled_rows(logits.shape[0])
        slots = slots.long()
        temperature = self.sampling_states.temperature.gpu[slots]  # type: ignore[attr-defined]
        self.led_drawn = self.led_decoder.draw(model, logits, slots, temperature)

    def sample(self, logits: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.led_drawn = None
        sampled, processed = super().sample(logits, *args, **kwargs)  # type: ignore[misc]
        drawn, self.led_drawn = self.led_drawn, None
        if drawn is None:
            return sampled, processed
        if drawn.active is None:  # on CPU: the rows are known
            sampled = sampled.index_copy(0, drawn.rows, drawn.tokens.to(sampled.dtype))
        else:
            sampled = torch.where(drawn.active, drawn.tokens.to(sampled.dtype), sampled)
        if self.logprobs_mode.startswith("processed"):  # type: ignore[attr-defined]
            processed = drawn.write_policy(processed)
        return sampled, processed
