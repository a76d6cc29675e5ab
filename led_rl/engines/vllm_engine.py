"""A vLLM engine in this process: built with LED switched on, generating the records that evaluation works with."""

import difflib
import inspect
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch

from led_rl.decoding import LARGEST_INTEGER, DecodingParams
from led_rl.engines.engine import Completion, EngineError, Request, Sampling, stream
from led_rl.sampler.capture_options import EngineOptions
from led_rl.sampler.support import read_record
from led_rl.thinking import MissingMarkersError

if TYPE_CHECKING:
    from led_rl.sampler.request_decoder import RequestDecoder

# On CPU a float32 checkpoint would load as bfloat16, and compiling costs more than a minute at every start.
CPU_ENGINE_ARGUMENTS: dict[str, Any] = {"dtype": "float32", "enforce_eager": True, "use_tqdm_on_load": False}


@contextmanager
def engine_environment(options: EngineOptions, default: Mapping[str, Any] | None = None) -> Iterator[None]:
    """The environment in which an engine must be BUILT to capture the latent states of `options`.

    `default`: the request keys of requests that name no decoding; none, whatever the environment says.
    """
    from led_rl.engines.vllm_plugin.plugin import keep_weights_replaceable, register
    from led_rl.sampler.capture_options import DEFAULT_VARIABLE

    wanted = {**options.to_environment(), DEFAULT_VARIABLE: json.dumps(dict(default)) if default else ""}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        register()  # plugins load once per process, perhaps before the options were known
        if not torch.cuda.is_available():
            keep_weights_replaceable()
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def model_runner(llm: Any) -> Any:
    """What runs the model of an engine that runs in this process, with one worker: vLLM's runner V1 or V2."""
    return llm.llm_engine.model_executor.driver_worker.worker.model_runner


def request_decoder(llm: Any) -> "RequestDecoder | None":
    """What draws for LED in an engine that runs in this process: its counters and trace; None if built without LED."""
    from led_rl.engines.vllm_plugin.request_statistics import decoder_of

    return decoder_of(model_runner(llm))


class VLLMEngine:
    """vLLM as an `Engine` (engine.py).

    Args:
        model: checkpoint folder or hub id.
        depth: largest LED depth that requests may ask for; 0 builds an engine without LED.
        max_model_len: longest sequence, prompt and completion, in tokens.
        max_num_seqs: sequences decoded at a time.
        max_k: the most candidates that requests may ask for; no bound, since its caller's requests alone use it.
        latent_layers: what requests may read, instead of the last `depth` - 1 layers.
        support: whether outputs say which ids each token could have been (led_rl/sampler/support.py).
        explored: whether completions say which tokens came from latent layers.
        baselines: other decodings to admit (led_rl/sampler/capture_options.py).
        engine_args: any further argument of `vllm.LLM`.
    """

    def __init__(
        self,
        model: str,
        depth: int = 8,
        max_model_len: int | None = None,
        max_num_seqs: int = 64,
        seed: int = 0,
        max_k: int = LARGEST_INTEGER,
        latent_layers: tuple[int, ...] | None = None,
        support: bool = False,
        explored: bool = False,
        baselines: tuple[str, ...] = (),
        **engine_args: Any,
    ):
        defaults = {"logprobs_mode": "processed_logprobs"}  # so that a LED token's log-probability is log mu
        if not torch.cuda.is_available():
            defaults |= CPU_ENGINE_ARGUMENTS
        explored = explored and depth > 0 and tells_of_branches()
        options = EngineOptions(
            depth, latent_layers, support=support, max_k=max_k, explored=explored, baselines=baselines
        )
        self.capacity = 2 * max_num_seqs
        self._added, self._in_flight = 0, dict[str, tuple[int, DecodingParams, float]]()
        with engine_environment(options):
            from vllm import LLM

            self.llm: Any = LLM(
                model=model,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                seed=seed,
                **(defaults | engine_args),
            )
        self.tokenizer = self.llm.get_tokenizer()

    def add(self, index: int, request: Request) -> None:
        """Hands a request to vLLM; its completion comes from `step` under the same index."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0,
            detokenize=False,
            extra_args=request.decoding.to_extra_args() or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        self._added += 1
        name = str(self._added)  # vLLM refuses an id that it has had
        self.llm.llm_engine.add_request(name, TokensPrompt(prompt_token_ids=request.prompt), params)
        self._in_flight[name] = (index, request.decoding, time.perf_counter())

    def step(self) -> list[tuple[int, Completion]]:
        """One step of vLLM: indices and completions of the requests that it finished."""
        finished = []
        for output in self.llm.llm_engine.step():
            if output.finished:
                index, decoding, started = self._in_flight.pop(output.request_id)
                finished.append((index, self._completion(output, decoding, time.perf_counter() - started)))
        return finished

    def generate(
        self, prompts: list[list[int]], decoding: DecodingParams, sampling: Sampling
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt of token ids, in order."""
        requests = [
            Request(prompt, decoding, replace(sampling, seed=(sampling.seed * 1_000_003 + i * sampling.n + j) % 2**63))
            for i, prompt in enumerate(prompts)
            for j in range(sampling.n)
        ]
        completions = [completion for _, completion in sorted(stream(self, requests), key=itemgetter(0))]
        return [completions[i : i + sampling.n] for i in range(0, len(completions), sampling.n)]

    def _completion(self, output: Any, decoding: DecodingParams, wall_s: float) -> Completion:
        from led_rl.engines.vllm_plugin.request_statistics import KEY as STATISTICS_KEY

        sampled = output.outputs[0]
        tokens = list(sampled.token_ids)
        logprobs = [step[token].logprob for step, token in zip(sampled.logprobs, tokens, strict=True)]
        statistics = (output.kv_transfer_params or {}).get(STATISTICS_KEY)
        return Completion(
            tokens,
            logprobs,
            self._thinking(output.prompt_token_ids, tokens, decoding),
            sampled.finish_reason == "stop",
            statistics,
            None if decoding.is_standard else _explored(sampled, len(tokens)),
            wall_s,
        )

    def _thinking(self, prompt: list[int], tokens: list[int], decoding: DecodingParams) -> list[bool]:
        """Whether each token was sampled while thinking; where the tokenizer has no markers, none was."""
        try:
            markers = decoding.markers(self.tokenizer)
        except MissingMarkersError:
            return [False] * len(tokens)
        return markers.thinking_mask(prompt, tokens, decoding.think_start == "prompt")

    def load_weights(self, checkpoint: str) -> None:
        """Replaces the weights in place by those of another checkpoint of the same architecture."""
        from vllm.model_executor.model_loader import get_model_loader

        runner = model_runner(self.llm)
        config = runner.model_config
        before, config.model = config.model, checkpoint
        try:
            loader: Any = get_model_loader(runner.load_config)
            runner.model.load_weights(loader.get_all_weights(config, runner.model))
        finally:
            config.model = before
        self.llm.reset_prefix_cache()

    def close(self) -> None:
        """Frees what the engine holds; another one can then be built in this process."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        cleanup_dist_env_and_memory()


def check_arguments(given: Mapping[str, Any], needed: int) -> None:
    """Raises EngineError for `engine_arguments` that vllm.LLM does not have, or a context shorter than `needed`."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs

    known = [*inspect.signature(LLM.__init__).parameters, *(item.name for item in fields(EngineArgs))]
    if unknown := [key for key in given if key not in known or key in ("self", "kwargs")]:
        near = difflib.get_close_matches(unknown[0], known, n=3)
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else "they are the arguments of vllm.LLM"
        raise EngineError(f"engine_arguments: unknown key {unknown[0]!r}; {hint}")
    length = given.get("max_model_len", needed)
    if not isinstance(length, int) or length < needed:
        raise EngineError(
            f"engine_arguments: max_model_len: expected an integer >= {needed}, the longest prompt and max_tokens; "
            f"got {length!r}"
        )


def tells_of_branches() -> bool:
    """Whether this vLLM hands on what a token was drawn from; 0.26 does not."""
    import vllm.v1.outputs

    return hasattr(vllm.v1.outputs, "SamplingMaskLists")


def _explored(sampled: Any, tokens: int) -> list[bool] | None:
    """Whether each token came from latent layers; None if the engine was not built to say so, or no coin decided."""
    told = getattr(sampled, "sampling_mask", None)
    if told is None or len(told.token_ids) != tokens:
        return None
    shares = [read_record(record)[1] for record in told.token_ids]
    return [share == 1.0 for share in shares] if all(share in (-1.0, 0.0, 1.0) for share in shares) else None
