"""Timed blocks of requests on a vLLM engine in this process: one length for all, every engine step by the clock."""

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from led_rl.decoding import LARGEST_INTEGER, DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.vllm_engine import CPU_ENGINE_ARGUMENTS, engine_environment, model_runner, request_decoder
from led_rl.sampler.capture_options import EngineOptions


class BlockError(RuntimeError):
    """The engine refuses these requests, or cannot time them."""


@dataclass(frozen=True)
class Timing:
    """One block: `batch` requests of `steps` new tokens each.

    `decode_s` and `decode_steps` count the steps that draw a token for every request: without admission and without
    the steps of prefill, which are the same for every decoding.
    """

    wall_s: float
    prefill_steps: int
    decode_s: float
    decode_steps: int
    median_step_s: float
    statistics: dict[str, float]  # RequestDecoder.totals of the block; empty where vLLM's own sampler drew
    peak_bytes: int | None  # most memory allocated on the device during the block; None on a CPU


class BlockEngine:
    """A vLLM engine in this process that runs one block of equally long requests at a time.

    Args:
        model: checkpoint folder or hub id; a folder with no more than a config.json if `random_weights`.
        depth: largest LED depth; 0 builds vLLM without LED.
        random_weights: draw weights at random; their layers' distributions are neither flat nor alike.
        baselines: other decodings to admit (led_rl/sampler/capture_options.py).
        engine_args: further arguments of `vllm.LLM`.
    """

    def __init__(
        self,
        model: str,
        depth: int,
        random_weights: bool,
        seed: int = 0,
        baselines: tuple[str, ...] = (),
        **engine_args: Any,
    ):
        defaults: dict[str, Any] = {"logprobs_mode": "processed_logprobs", "skip_tokenizer_init": True}
        if not torch.cuda.is_available():
            defaults |= CPU_ENGINE_ARGUMENTS
        if random_weights:
            defaults["load_format"] = "dummy"
        with engine_environment(EngineOptions(depth, max_k=LARGEST_INTEGER, baselines=baselines)):
            from vllm import LLM

            before = time.perf_counter()
            self.llm: Any = LLM(model=model, seed=seed, **(defaults | engine_args))
        self._model = model_runner(self.llm).get_model()
        self._decoder = request_decoder(self.llm) if depth else None
        self._names = map(str, count())
        if random_weights:
            _draw_weights(self._model, seed)
        self.start_s = time.perf_counter() - before

    def capacity(self) -> tuple[int, int]:
        """Blocks of the key-value cache, and tokens in one."""
        config = self.llm.llm_engine.vllm_config.cache_config
        return config.num_gpu_blocks, config.block_size

    def lacks(self, batch: int, length: int) -> str | None:
        """Why sequences of `length` tokens do not fit into the key-value cache, `batch` at a time; None if they do."""
        blocks, size = self.capacity()
        needed = batch * math.ceil((length + 1) / size)
        return (
            None
            if needed < blocks
            else f"the key-value cache holds {blocks} blocks of {size} tokens and needs {needed}"
        )

    def added_bytes(self) -> dict[str, int]:
        """Memory that LED holds for the life of the engine; the workspace lies on a device alone."""
        if self._decoder is None:
            return {}
        held = {"latent_states": self._model.led_states.bytes(), "request_tables": 0, "workspace": 0}
        for name, tensor in self._decoder.tensors().items():
            held["workspace" if name.startswith("led_workspace_") else "request_tables"] += tensor.nbytes
        return held

    def run(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingParams, sampling: Sampling, logprobs: bool
    ) -> Timing:
        """Generates `sampling.max_tokens` tokens for each prompt, whatever they are.

        Raises:
            BlockError: vLLM refuses the requests, or so many steps of prefill that none decoded the whole batch.
        """
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.sampling_params import RequestOutputKind

        # No seed of its own for each request: vLLM would draw standard rows one by one.
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            ignore_eos=True,
            logprobs=0 if logprobs else None,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=decoding.to_extra_args() or None,
        )
        on_device = torch.cuda.is_available()
        if self._decoder is not None:
            self._decoder.totals(reset=True)
        gc.collect()
        if on_device:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        engine = self.llm.llm_engine
        clock = [time.perf_counter()]
        try:
            for prompt in prompts:
                engine.add_request(next(self._names), {"prompt_token_ids": list(prompt)}, params)
        except VLLMValidationError as error:
            raise BlockError(str(error)) from error
        admitted = time.perf_counter()
        while engine.has_unfinished_requests():
            engine.step()
            clock.append(time.perf_counter())
        steps = [after - before for before, after in zip([admitted, *clock[1:]], clock[1:], strict=False)]
        prefill = max(1, len(steps) - sampling.max_tokens + 1)  # until the last request had its first token
        decode = sorted(steps[prefill : sampling.max_tokens])
        if not decode:
            raise BlockError(f"prefill took {prefill} engine steps, so that more new tokens are needed to time any")
        statistics = {} if self._decoder is None or decoding.is_standard else self._decoder.totals(reset=True)
        return Timing(
            wall_s=clock[-1] - clock[0],
            prefill_steps=prefill,
            decode_s=sum(decode),
            decode_steps=len(decode),
            median_step_s=decode[len(decode) // 2],
            statistics=statistics,
            peak_bytes=torch.cuda.max_memory_allocated() if on_device else None,
        )


def _draw_weights(model: torch.nn.Module, seed: int) -> None:
    """Normal weights that keep the size of what passes through, norms of 1, and logits of standard deviation 4."""
    generators: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            if weight.device not in generators:
                generators[weight.device] = torch.Generator(weight.device).manual_seed(seed)
            scale = 4.0 if "embed_tokens" in name or "lm_head" in name else 1.0
            weight.normal_(0.0, scale * weight.shape[-1] ** -0.5, generator=generators[weight.device])
