"""LED in vLLM's V1 model runner (CPU, and GPUs with VLLM_USE_V2_MODEL_RUNNER=0).

plugin.py wraps two functions of vLLM: `Sampler.sample`, for batches with LED requests (requests with a decoding other
than standard), and `GPUModelRunner._prepare_inputs`, which knows before the model runs which tokens will be sampled.
`LEDBatch` is one of the built-in logits processors because those are told which request sits in which row of the batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import _SAMPLING_EPS, Sampler

from led_rl.decoding import decoding_of
from led_rl.engines.vllm_plugin.admission import admit, make_decoder
from led_rl.engines.vllm_plugin.changed_passes import StepRequest
from led_rl.engines.vllm_plugin.submission import speller


class LEDBatch(LogitsProcessor):
    """Which LED request sits in which row of the persistent batch.

    Attributes:
        model: the runner's, which keeps the latent states of the step; set before each step.
    """

    model: Any = None

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        count = vllm_config.scheduler_config.max_num_seqs
        self.decoder = make_decoder(vllm_config, count, device)
        self.spell = speller(vllm_config.model_config)
        self.free = list(range(count))
        self.slot_of_row: dict[int, int] = {}
        self._slots_on_device: Tensor | None = None

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: Tensor) -> Tensor:
        return logits  # `sample` does the work: it must also see the states and the temperature

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        self._slots_on_device = None
        for row in batch_update.removed:
            self._release(row)
        for row, params, prompt, output in batch_update.added:
            self._release(row)  # an added request may replace one that is not listed as removed
            if not decoding_of(params.extra_args).is_standard:
                slot = self.free.pop()
                known = None if prompt is None else [*prompt, *output]
                admit(self.decoder.slots, slot, params, known, self.spell)
                self.slot_of_row[row] = slot
        for source, target, direction in batch_update.moved:
            moved, displaced = self.slot_of_row.pop(source, None), self.slot_of_row.pop(target, None)
            if moved is not None:
                self.slot_of_row[target] = moved
            if displaced is not None and direction == MoveDirectionality.SWAP:
                self.slot_of_row[source] = displaced
            elif displaced is not None:
                self._free(displaced)

    def slots_on_device(self, rows: int) -> Tensor:
        """(rows,) slot of each row of the batch, the spare slot for requests that decode as usual."""
        if self._slots_on_device is None or len(self._slots_on_device) != rows:
            slots = self.decoder.slots
            self._slots_on_device = slots.to_device([self.slot_of_row.get(row, slots.spare) for row in range(rows)])
        return self._slots_on_device

    def _release(self, row: int) -> None:
        if (slot := self.slot_of_row.pop(row, None)) is not None:
            self._free(slot)

    def _free(self, slot: int) -> None:
        self.decoder.slots.release(slot)
        self.free.append(slot)


def led_batch(processors: Any) -> LEDBatch | None:
    """The `LEDBatch` among a batch's logits processors."""
    return next((p for p in processors.argmax_invariant if isinstance(p, LEDBatch)), None)


def prepare_inputs_and_rows(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `GPUModelRunner._prepare_inputs`: its first result says which tokens of the step will be sampled."""

    def _prepare_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        prepared = original(self, *args, **kwargs)
        model = self.get_model()
        states = getattr(model, "led_states", None)  # models of an engine without LED have none
        if states is not None:
            batch = led_batch(self.input_batch.logitsprocs)
            if batch is not None and batch.slot_of_row:
                batch.model = model
                states.begin(prepared[0])
            else:
                states.skip()
            if batch is not None and model.led_changes is not None:
                model.led_changes.begin(
                    batch.decoder.slots, changing_requests(self, batch, args[1]), self.input_ids.gpu
                )
        return prepared

    return _prepare_inputs


def changing_requests(runner: Any, batch: LEDBatch, scheduled: Any) -> list[StepRequest]:
    """The tokens of the step whose requests may change the forward pass; `scheduled`: (rows,) tokens of each row."""
    slots, inputs = batch.decoder.slots, runner.input_batch
    rows = [(row, slot) for row, slot in batch.slot_of_row.items() if slot in slots.changing]
    if not rows:
        return []
    if slots.arrived:
        assert slots.carried is not None
        slots.carried.history.keep(runner.requests)
    starts = scheduled.cumsum() - scheduled
    computed = inputs.num_computed_tokens_cpu
    return [
        StepRequest(inputs.req_ids[row], slot, int(starts[row]), int(computed[row]), int(scheduled[row]))
        for row, slot in rows
    ]


def sample_with_led(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `Sampler.sample`: batches without LED requests take vLLM's own path, untouched."""

    def sample(
        self: Sampler, logits: Tensor, sampling_metadata: SamplingMetadata, logprobs_mode_override: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        batch = led_batch(sampling_metadata.logitsprocs)
        if batch is not None and batch.slot_of_row:
            return _sample(self, logits, sampling_metadata, batch)
        tokens, scores = original(self, logits, sampling_metadata, logprobs_mode_override)
        if batch is not None:
            batch.decoder.note_support(None, logits, scores if _truncates(sampling_metadata) else None)
        return tokens, scores

    return sample


def _sample(
    sampler: Sampler, logits: Tensor, metadata: SamplingMetadata, batch: LEDBatch
) -> tuple[Tensor, Tensor | None]:
    """`Sampler.sample` of vLLM 0.26 and 0.31 step by step. LED rows take LED's draw and the others vLLM's.

    k takes the place of min-p, top-k and top-p in LED rows. On CPU each row is drawn once; a device draws all rows both
    ways and chooses, since asking which rows still think would be a sync.
    """
    batch.model.led_states.check(len(logits))
    temperature = metadata.temperature
    if temperature is None:  # all greedy
        temperature = logits.new_zeros(len(logits))
    greedy = None if metadata.all_random else sampler.greedy_sample(logits)
    if not metadata.all_greedy:
        logits = sampler.apply_temperature(logits, temperature, metadata.all_random)
        for processor in metadata.logitsprocs.argmax_invariant:
            if not isinstance(processor, MinPLogitsProcessor):
                logits = processor.apply(logits)
    drawn = batch.decoder.draw(batch.model, logits, batch.slots_on_device(len(logits)), temperature)
    wants_scores = metadata.max_num_logprobs is not None or bool(metadata.logprob_token_ids)
    wants_scores = wants_scores and sampler.logprobs_mode in ("processed_logprobs", "processed_logits")

    if drawn is None:
        tokens, scores = _draw_as_usual(sampler, logits, metadata, temperature, greedy, None)
        batch.decoder.note_support(None, logits, scores if _truncates(metadata) else None)
        return tokens, scores
    if drawn.active is not None:
        tokens, scores = _draw_as_usual(sampler, logits, metadata, temperature, greedy, None)
        tokens = torch.where(drawn.active, drawn.tokens, tokens)
        batch.decoder.note_support(drawn, logits, scores if _truncates(metadata) else None)
        return tokens, drawn.write_policy(scores) if wants_scores and scores is not None else None

    tokens = drawn.tokens
    scores = torch.empty_like(logits) if wants_scores else None
    if len(drawn.rows) < len(logits):
        tokens = torch.empty(len(logits), dtype=torch.int64).index_copy_(0, drawn.rows, drawn.tokens)
        rest = torch.ones(len(logits), dtype=torch.bool).index_fill_(0, drawn.rows, False).nonzero().squeeze(1)
        tokens[rest], rest_scores = _draw_as_usual(sampler, logits, metadata, temperature, greedy, rest)
        if scores is not None and rest_scores is not None:
            scores[rest] = rest_scores
    batch.decoder.note_support(drawn, logits, scores if _truncates(metadata) else None)
    return tokens, scores if scores is None else drawn.write_policy(scores)


def _truncates(metadata: SamplingMetadata) -> bool:
    """Whether top-k, top-p or min-p keeps a request of the batch from part of the vocabulary."""
    processors = metadata.logitsprocs.argmax_invariant
    min_p = any(isinstance(p, MinPLogitsProcessor) and p.min_p_count for p in processors)
    return min_p or metadata.top_k is not None or metadata.top_p is not None


def _draw_as_usual(
    sampler: Sampler,
    logits: Tensor,
    metadata: SamplingMetadata,
    temperature: Tensor,
    greedy: Tensor | None,
    rows: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """vLLM's own draw from scaled logits, of all rows or, on CPU, of some: tokens and processed scores."""
    generators, top_k, top_p = metadata.generators, metadata.top_k, metadata.top_p
    if rows is not None:
        logits, temperature = logits[rows], temperature[rows]
        generators = {i: generators[row] for i, row in enumerate(rows.tolist()) if row in generators}
        greedy = None if greedy is None else greedy[rows]
        top_k = None if top_k is None else top_k[rows]
        top_p = None if top_p is None else top_p[rows]
    if metadata.all_greedy:
        assert greedy is not None
        return greedy, sampler.compute_logprobs(logits) if sampler.logprobs_mode == "processed_logprobs" else logits
    for processor in metadata.logitsprocs.argmax_invariant:
        if isinstance(processor, MinPLogitsProcessor) and processor.min_p_count:
            min_p = processor.min_p
            processor.min_p = min_p if rows is None else min_p[rows]
            logits = processor.apply(logits)
            processor.min_p = min_p
    tokens, scores = sampler.topk_topp_sampler(logits, generators, top_k, top_p)
    return tokens if greedy is None else torch.where(temperature < _SAMPLING_EPS, greedy, tokens), scores
