"""LED in vLLM's V2 model runner (the default on GPUs).

Through its own doors alone: the model names a `ModelState`, which is told of requests and inputs and supplies the
sampler. vLLM samples every row its own way, and LED rows take LED's token instead: asking the device which rows still
think would be a sync. Every method here has the same arguments in vLLM 0.26 and 0.31, or passes them on unread.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.sample.sampler import Sampler
from vllm.v1.worker.gpu.sample.states import SamplingStates

from led_rl.decoding import decoding_of
from led_rl.engines.vllm_plugin.admission import admit, make_decoder
from led_rl.engines.vllm_plugin.changed_passes import StepRequest
from led_rl.engines.vllm_plugin.plugin import keep_over_sleep
from led_rl.engines.vllm_plugin.submission import speller
from led_rl.sampler.request_decoder import Drawn, RequestDecoder


class LEDModelState(DefaultModelState):
    """Tells the decoder which requests there are, and the model which tokens of a step will be sampled."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.led_decoder = make_decoder(self.vllm_config, self.max_num_reqs, self.device)
        self.led_spell = speller(self.vllm_config.model_config)
        self.led_slot_of: dict[str, int] = {}
        keep_over_sleep(self.model, self.led_decoder.tensors())  # made within the memory of the weights

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        super().add_request(req_index, new_req_data)
        params = new_req_data.sampling_params
        if params is not None and not decoding_of(params.extra_args).is_standard:
            # The prompt, and after preemption what had been generated.
            admit(self.led_decoder.slots, req_index, params, new_req_data.prefill_token_ids, self.led_spell)
            self.led_slot_of[new_req_data.req_id] = req_index

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        if (slot := self.led_slot_of.pop(req_id, None)) is not None:
            self.led_decoder.slots.release(slot)

    def prepare_inputs(self, input_batch: Any, req_states: Any) -> dict[str, Any]:
        states: Any = self.model.led_states
        if self.led_decoder.slots.slots:
            states.begin(input_batch.logits_indices)
        else:
            states.skip()
        changes: Any = self.model.led_changes
        if changes is not None:
            changes.begin(self.led_decoder.slots, self._changing_requests(input_batch), input_batch.input_ids)
        return super().prepare_inputs(input_batch, req_states)

    def _changing_requests(self, input_batch: Any) -> list[StepRequest]:
        """The tokens of the step whose requests may change the forward pass."""
        changing = self.led_decoder.slots.changing
        if not changing:
            return []
        computed, scheduled = input_batch.num_computed_tokens_np, input_batch.num_scheduled_tokens
        starts = input_batch.query_start_loc_np
        return [
            StepRequest(name, slot, int(starts[row]), int(computed[row]), int(scheduled[row]))
            for row, (name, slot) in enumerate(
                zip(input_batch.req_ids, input_batch.idx_mapping_np.tolist(), strict=False)
            )
            if slot in changing
        ]

    def led_forget(self, finished: Iterable[str]) -> None:
        """Drops what was kept of requests in case they were preempted."""
        if self.led_decoder.slots.carried is not None:
            self.led_decoder.slots.carried.history.forget(finished)

    def custom_sampler(self, sampler: Sampler) -> tuple[Any, None] | None:
        if self.vllm_config.speculative_config is not None:
            return None  # vLLM then samples by rejection; requests that ask for LED are refused at submission
        sampler.__class__ = LEDSampler
        states = sampler.sampling_states
        states.__class__ = LEDSamplingStates
        assert isinstance(states, LEDSamplingStates)
        states.led_decoder = self.led_decoder
        states.led_model = self.model
        states.led_rows = np.zeros(self.max_num_reqs, dtype=bool)
        states.led_drawn = None
        return sampler, None


class LEDSamplingStates(SamplingStates):
    """Draws LED rows right before min-p: logits carry the temperature and all edits, but no min-p, top-k or top-p."""

    led_decoder: RequestDecoder
    led_model: Any  # keeps the latent states of the step
    led_rows: np.ndarray  # (slots,) bool: holds a LED request
    led_drawn: Drawn | None

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        led = not decoding_of(sampling_params.extra_args).is_standard
        self.led_rows[req_idx] = led
        # 0.31 asks whether the request changes logits, and skips `apply_min_p` where none does; 0.26 does not ask.
        return bool(super().add_request(req_idx, sampling_params)) or led

    def led_truncates(self, idx_mapping_np: np.ndarray) -> bool:
        """Whether top-k, top-p or min-p keeps a request of the batch from part of the vocabulary."""
        top_k, top_p, min_p = (values.np[idx_mapping_np] for values in (self.top_k, self.top_p, self.min_p))
        return bool((top_k < self.vocab_size).any() or (top_p < 1).any() or (min_p > 0).any())

    def apply_min_p(self, logits: Tensor, expanded_idx_mapping: Tensor, idx_mapping_np: np.ndarray) -> None:
        if self.led_rows[idx_mapping_np].any():
            self.led_model.led_states.check(len(logits))
            slots = expanded_idx_mapping.long()  # one a row: there are no draft tokens
            self.led_drawn = self.led_decoder.draw(self.led_model, logits, slots, self.temperature.gpu[slots])
        super().apply_min_p(logits, expanded_idx_mapping, idx_mapping_np)


class LEDSampler(Sampler):
    """Puts LED's tokens over vLLM's, and their log-policy where log-probabilities of what was sampled are asked for."""

    def sample(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        sampled, processed = super().sample(*args, **kwargs)
        states = self.sampling_states
        assert isinstance(states, LEDSamplingStates)
        drawn, states.led_drawn = states.led_drawn, None
        idx_mapping_np = args[3] if len(args) > 3 else kwargs["idx_mapping_np"]
        truncated = processed if states.led_truncates(idx_mapping_np) else None
        states.led_decoder.note_support(drawn, processed, truncated)
        if drawn is None:
            return sampled, processed
        if drawn.active is None:  # on CPU: the rows are known
            sampled = sampled.index_copy(0, drawn.rows, drawn.tokens.to(sampled.dtype))
        else:
            sampled = torch.where(drawn.active, drawn.tokens.to(sampled.dtype), sampled)
        if kwargs["return_logprobs"] and self.logprobs_mode.startswith("processed"):
            processed = drawn.write_policy(processed.float())  # 0.26 leaves logits in the model's dtype
        return sampled, processed
