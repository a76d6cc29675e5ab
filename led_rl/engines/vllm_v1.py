"""LED in vLLM's V1 model runner (CPU, and GPUs with VLLM_USE_V2_MODEL_RUNNER=0).

Touched: `Sampler.sample`, replaced for batches with a request that asks for LED; nothing else. `LEDBatch` rides along
as a built-in logits processor because those are told which request sits in which row of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.tokenizers.registry import cached_tokenizer_from_config
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import _SAMPLING_EPS, Sampler

from led_rl.decoding import DecodingParams
from led_rl.engines.decoding_slots import DecodingSlots
from led_rl.engines.led_logits import LEDStatistics, rewrite_logits
from led_rl.engines.vllm_models import EngineOptions, take_sampled_rows
from led_rl.led import LEDDistribution
from led_rl.thinking import MissingMarkersError, ThinkMarkers


class LEDBatch(LogitsProcessor):
    """Which request that asks for LED (or another of our decodings) sits in which row of the persistent batch."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        model_config = vllm_config.model_config
        num_layers = model_config.hf_text_config.num_hidden_layers
        captured = EngineOptions.from_environment().captured_layers(num_layers)
        self.device = device
        self.markers = _markers(model_config)
        self.slots = DecodingSlots(vllm_config.scheduler_config.max_num_seqs, captured, num_layers, device)
        self.statistics = LEDStatistics(1 + len(captured), device)
        self.trace: list[TracedStep] | None = None
        self.slot_of_row: dict[int, int] = {}
        self.extra_args: dict[int, dict[str, Any]] = {}  # by slot, for the trace
        self._slots_on_device: Tensor | None = None

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: Tensor) -> Tensor:
        return logits  # `sample` does the work: it must also see the states, the temperature and top-p/top-k

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        self._slots_on_device = None
        for row in batch_update.removed:
            self._release(row)
        for row, params, prompt, output in batch_update.added:
            self._release(row)  # an added request may replace one that is not listed as removed
            decoding = DecodingParams.from_extra_args(params.extra_args)
            if not decoding.is_standard:
                if prompt is None:
                    raise RuntimeError("LED follows the thinking phase by token ids: prompt embeddings do not work")
                slot = self.slots.admit(decoding, self.markers, [*prompt, *output])
                self.slot_of_row[row] = slot
                self.extra_args[slot] = params.extra_args or {}
        for source, target, direction in batch_update.moved:
            moved, displaced = self.slot_of_row.pop(source, None), self.slot_of_row.pop(target, None)
            if moved is not None:
                self.slot_of_row[target] = moved
            if displaced is not None and direction == MoveDirectionality.SWAP:
                self.slot_of_row[source] = displaced
            elif displaced is not None:
                self.slots.release(displaced)

    def _release(self, row: int) -> None:
        if (slot := self.slot_of_row.pop(row, None)) is not None:
            self.slots.release(slot)

    def slots_on_device(self, rows: int) -> Tensor:
        """(rows,) slot of each row of the batch, the spare slot for requests that decode as usual."""
        if self._slots_on_device is None or len(self._slots_on_device) != rows:
            host = torch.tensor([self.slot_of_row.get(row, self.slots.spare) for row in range(rows)])
            self._slots_on_device = host.to(self.device, non_blocking=True)
        return self._slots_on_device


@dataclass
class TracedStep:
    """One step's rows, on the host."""

    extra_args: list[dict[str, Any] | None]  # (rows,) of the row's request, None for requests that decode as usual
    positions: Tensor  # (rows,) of the token fed in
    explore: Tensor  # (rows,) bool
    table: Tensor  # (rows, depth, k) posteriors at the candidates
    distribution: LEDDistribution


def sample_with_led(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `Sampler.sample`: batches without LED requests take vLLM's own path, untouched."""

    def sample(
        self: Sampler, logits: Tensor, sampling_metadata: SamplingMetadata, logprobs_mode_override: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        for processor in sampling_metadata.logitsprocs.argmax_invariant:
            if isinstance(processor, LEDBatch) and processor.slot_of_row:
                return _sample(self, logits, sampling_metadata, processor)
        return original(self, logits, sampling_metadata, logprobs_mode_override)

    return sample


def _sample(
    sampler: Sampler, logits: Tensor, metadata: SamplingMetadata, batch: LEDBatch
) -> tuple[Tensor, Tensor | None]:
    """`Sampler.sample` of vLLM 0.31 step by step, with LED between the logits processors and the draw."""
    rows = take_sampled_rows(logits.shape[0])
    tokens, positions = rows.token_and_position()
    slot_of_row = batch.slots_on_device(logits.shape[0])
    explore = batch.slots.explore_mask(slot_of_row, tokens, positions, batch.markers)

    if metadata.temperature is None:  # all greedy
        temperature = logits.new_zeros(logits.shape[0])
    else:
        temperature = torch.where(metadata.temperature < _SAMPLING_EPS, 0.0, metadata.temperature)
    greedy_tokens = None if metadata.all_random else sampler.greedy_sample(logits)
    logits = sampler.apply_temperature(logits, temperature, all_random=metadata.all_random)

    for processor in metadata.logitsprocs.argmax_invariant:
        if isinstance(processor, MinPLogitsProcessor) and processor.min_p_count:
            min_p = processor.min_p  # while a request explores, k takes the place of min-p, top-k and top-p
            processor.min_p = min_p.masked_fill(explore[:, None], 0.0)
            logits = processor.apply(logits)
            processor.min_p = min_p
        else:
            logits = processor.apply(logits)
    top_k = None if metadata.top_k is None else metadata.top_k.masked_fill(explore, logits.shape[-1])
    top_p = None if metadata.top_p is None else metadata.top_p.masked_fill(explore, 1.0)

    def record(table: Tensor, distribution: LEDDistribution) -> None:
        assert batch.trace is not None
        requests = [batch.slot_of_row.get(row) for row in range(len(explore))]
        extra_args = [None if slot is None else batch.extra_args[slot] for slot in requests]
        fields = [field.cpu().clone() for field in distribution]
        batch.trace.append(
            TracedStep(extra_args, positions.cpu(), explore.cpu(), table.cpu(), LEDDistribution(*fields))
        )

    rewrite_logits(
        logits,
        explore,
        slot_of_row,
        batch.slots,
        rows,
        temperature,
        positions,
        batch.statistics,
        None if batch.trace is None else record,
    )
    sampled, processed_logprobs = sampler.topk_topp_sampler(logits, metadata.generators, top_k, top_p)
    if greedy_tokens is not None:
        sampled = torch.where((temperature == 0) & ~explore, greedy_tokens, sampled)
    return sampled, processed_logprobs


def _markers(model_config: Any) -> ThinkMarkers | None:
    """The tokenizer's think markers; None without them (such requests are refused at submission)."""
    if model_config.skip_tokenizer_init:
        return None
    try:
        return ThinkMarkers.from_tokenizer(cached_tokenizer_from_config(model_config))
    except MissingMarkersError:
        return None
