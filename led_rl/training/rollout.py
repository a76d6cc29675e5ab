"""TRL's vLLM rollouts, in this process or from a server, made to sample with LED and to say what they did."""

import difflib
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import trl.generation.vllm_generation as trl_generation
import trl.trainer.grpo_trainer as trl_grpo_trainer
from accelerate.utils import is_peft_model

from led_rl.decoding import DecodingParams
from led_rl.engines.vllm_engine import CPU_ENGINE_ARGUMENTS, engine_environment, request_decoder
from led_rl.sampler.capture_options import EngineOptions
from led_rl.training.config import CheckError, LEDGRPOConfig
from led_rl.training.merging import adapted_layers, merged_weight, unmerged
from led_rl.training.rollout_client import LEDClient
from led_rl.training.served_rollout import ServedGeneration
from led_rl.training.step_clock import AFTER_ROLLOUT, ROLLOUT, SYNC

STOPS = ("stop", "stop_token_ids")  # generation_kwargs that end a completion without the model's end token


class LEDVLLMGeneration(ServedGeneration):
    """TRL's `VLLMGeneration`, whose hard-coded engine arguments can be set, and whose wall time is measured.

    Args:
        decoding: the decoding that a rollout server must support; it is checked when the client connects.
        request_arguments: what each request carries beside `generation_kwargs`, by key: the decoding.
        wants_supports: after `generate`, `supports` holds a record for each token of each completion
            (led_rl/sampler/support.py).
        request_timeout: seconds that a rollout server may take to answer one request.

    Attributes:
        options: what the engine captures for LED; depth 0 builds plain vLLM.
        engine_arguments: arguments of `vllm.LLM` that take precedence over TRL's.
        run_seed: the run's seed; each tensor-parallel group of processes samples from a stream of its own.
        wants_endings: whether STOPS may end completions. After `generate`, `stopped` then says of each completion
            whether it ended by itself, with the model's end token or one of these.
    """

    def __init__(
        self,
        *args: Any,
        options: EngineOptions,
        engine_arguments: dict[str, Any],
        run_seed: int,
        decoding: DecodingParams | None = None,
        request_arguments: dict[str, Any] | None = None,
        wants_supports: bool = False,
        request_timeout: float = 3600.0,
        generation_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        generation_kwargs = dict(generation_kwargs or {})  # the caller's stays as it is
        self.wants_endings = any(generation_kwargs.get(key) for key in STOPS)
        for key, values in (request_arguments or {}).items():
            generation_kwargs[key] = {**generation_kwargs.get(key, {}), **values}
        self.wants_supports = wants_supports
        self.supports: list[list[list[int]]] | None = None
        self.stopped: list[bool] | None = None
        self.decoding = decoding or DecodingParams()
        self.options = options
        self.run_seed = run_seed
        self.request_timeout = request_timeout
        self.served_statistics: dict[str, float] = {}  # of a server, since `take_statistics`
        self.engine_arguments = engine_arguments
        self.enter: Callable[[str], None] = lambda stage: None  # told which stage begins (StepClock)
        self.sync_seconds = 0.0  # since `take_seconds`
        self.generate_seconds = 0.0
        super().__init__(*args, **kwargs, generation_kwargs=generation_kwargs)  # type: ignore[misc]

    def _init_vllm(self) -> None:
        if self.mode == "server":
            client = partial(
                LEDClient,
                decoding=self.decoding,
                wants_supports=self.wants_supports,
                wants_endings=self.wants_endings,
                request_timeout=self.request_timeout,
            )
            with replaced(trl_generation, "VLLMClient", client):
                return super()._init_vllm()
        build = trl_generation.LLM
        cpu = {} if torch.cuda.is_available() else CPU_ENGINE_ARGUMENTS

        def build_engine(**trl_arguments: Any) -> Any:
            # TRL seeds the engine with the rank alone, which also reseeds this process: pass the run's seed on.
            seed = (self.run_seed * 1_000_003 + trl_arguments.pop("seed")) % 2**31
            return build(**{**trl_arguments, "seed": seed, **cpu, **self.engine_arguments})

        with engine_environment(self.options), replaced(trl_generation, "LLM", build_engine):
            return super()._init_vllm()

    def _iter_named_params(self) -> Iterator[tuple[str, Any]]:
        """TRL's, but adapters are merged into copies, so that the frozen weights stay as they are."""
        layers = adapted_layers(self.model) if is_peft_model(self.model) and not self._dist.is_fsdp else None
        if layers is None:
            yield from super()._iter_named_params()
            return
        layers = {self._fix_param_name_to_vllm(name): layer for name, layer in layers.items()}
        with unmerged(self.model):
            for name, weight in super()._iter_named_params():
                yield name, merged_weight(layers[name]) if name in layers else weight

    def sync_weights(self) -> None:
        start = time.perf_counter()
        self.enter(SYNC)
        super().sync_weights()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.sync_seconds += time.perf_counter() - start
        self.enter(ROLLOUT)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        start, synced = time.perf_counter(), self.sync_seconds
        self.enter(ROLLOUT)
        try:
            if self.mode == "server":
                return self._generate_by_server(*args, **kwargs)
            if not (self.wants_supports or self.wants_endings):
                return super().generate(*args, **kwargs)
            return self._generate_here(*args, **kwargs)
        finally:  # waking a sleeping engine may sync weights on the way
            self.generate_seconds += time.perf_counter() - start - (self.sync_seconds - synced)
            self.enter(AFTER_ROLLOUT)

    def _generate_here(self, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        generate = self.llm.generate
        told: list[tuple[Any, bool]] = []  # of each completion: its supports, whether it stopped by itself

        def note(*inputs: Any, **options: Any) -> Any:
            outputs = generate(*inputs, **options)
            told.extend(
                (getattr(sampled, "sampling_mask", None), sampled.finish_reason == "stop")
                for output in outputs
                for sampled in output.outputs
            )
            return outputs

        with replaced(self.llm, "generate", note):
            result = super().generate(prompts, *args, **kwargs)
        if self.tensor_parallel_size > 1:  # every process of the group generated for all
            rank = torch.distributed.get_rank(group=self.tp_group)
            told = told[rank * len(prompts) : (rank + 1) * len(prompts)]
        self.stopped = [stopped for _, stopped in told]
        if self.wants_supports:
            self._take_supports([[] if mask is None else mask.token_ids for mask, _ in told], result[1])
        return result

    def _generate_by_server(self, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().generate(prompts, *args, **kwargs)
        first = self.accelerator.process_index * len(prompts)
        self.stopped = self.told["stopped"][first : first + len(prompts)]
        for name, value in self.told["statistics"].items():  # summed over all processes: the main one's alone count
            mine = value if self.accelerator.is_main_process else 0.0
            self.served_statistics[name] = self.served_statistics.get(name, 0.0) + mine
        if self.wants_supports:
            self._take_supports(self.told["supports"][first : first + len(prompts)], result[1])
        return result

    def _take_supports(self, supports: list[list[list[int]]], completions: list[list[int]]) -> None:
        """Keeps the records of a rollout's tokens, if they are whole."""
        for records, tokens in zip(supports, completions, strict=True):
            strays = len(records) != len(tokens) or any(
                record and token not in record for record, token in zip(records, tokens, strict=True)
            )
            if strays:
                raise RuntimeError(
                    f"the engine told the supports of {len(records)} tokens for a completion of {len(tokens)}, or a "
                    "support without its token: the loss cannot be normalised over them. train_support: vocabulary "
                    "trains without"
                )
        self.supports = supports

    def take_seconds(self) -> tuple[float, float]:
        """Seconds of rollout and of weight sync since the last call."""
        taken = self.generate_seconds, self.sync_seconds
        self.generate_seconds = self.sync_seconds = 0.0
        return taken

    def take_statistics(self) -> dict[str, float] | None:
        """`RequestDecoder.totals` of this process since the last call; None without LED.

        What a server told stands with the main process; `entropy_final` is missing if the server does not count it.
        """
        if self.mode == "server":
            taken, self.served_statistics = self.served_statistics, {}
            return taken or None
        if not self.options.depth:
            return None
        decoder = request_decoder(self.llm)
        return None if decoder is None else decoder.totals(reset=True)


def check_sampling_arguments(args: LEDGRPOConfig) -> None:
    """Raises CheckError for generation_kwargs that are no arguments of vLLM's requests, or out of their range."""
    given: dict[str, Any] = dict(args.generation_kwargs or {})  # type: ignore[arg-type]
    given.pop("vllm_xargs", None)  # a server's
    if not args.use_vllm or not given:
        return
    known = inspect.signature(trl_generation.SamplingParams).parameters
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=3) or sorted(known)
            raise CheckError(f"generation_kwargs: unknown key {key!r}; did you mean {', '.join(near)}?")
    given.pop("structured_outputs", None)  # TRL makes an object of it
    try:
        trl_generation.SamplingParams(**given)
    except Exception as error:  # vLLM raises classes of its own
        raise CheckError(f"generation_kwargs: {str(error).splitlines()[0]}") from error


@contextmanager
def rollouts_by(make: Any) -> Iterator[None]:
    """While open, `GRPOTrainer.__init__` builds its rollout engine with `make`: TRL has no argument for it."""
    with replaced(trl_grpo_trainer, "VLLMGeneration", make):
        yield


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """`module.name` is `value` while open. A name that is gone raises, so that a changed TRL is noticed."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
