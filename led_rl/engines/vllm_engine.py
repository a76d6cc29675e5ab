"""A vLLM engine in this process: built with LED switched on, generating the records that evaluation works with."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from led_rl.decoding import LARGEST_INTEGER, DecodingParams
from led_rl.engines.engine import Completion, Sampling
from led_rl.sampler.capture_options import EngineOptions
from led_rl.thinking import ThinkMarkers

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
    """vLLM as an `Engine` (engine.py). Its caller's requests alone use it: `led_k` has no bound here.

    Args:
        model: checkpoint folder or hub id.
        depth: largest LED depth that requests may ask for; 0 builds an engine without LED.
        max_model_len: longest sequence, prompt and completion, in tokens.
        max_num_seqs: sequences decoded at a time.
        support: whether outputs say which ids each token could have been (led_rl/sampler/support.py).
        engine_args: any further argument of `vllm.LLM`.
    """

    def __init__(
        self,
        model: str,
        depth: int = 8,
        max_model_len: int | None = None,
        max_num_seqs: int = 64,
        seed: int = 0,
        support: bool = False,
        **engine_args: Any,
    ):
        defaults = {"logprobs_mode": "processed_logprobs"}  # so that a LED token's log-probability is log mu
        if not torch.cuda.is_available():
            defaults |= CPU_ENGINE_ARGUMENTS
        with engine_environment(EngineOptions(depth, support=support, max_k=LARGEST_INTEGER)):
            from vllm import LLM

            self.llm: Any = LLM(
                model=model,
                max_model_len=max_model_len,
                max_num_seqs=max_num_seqs,
                seed=seed,
                **(defaults | engine_args),
            )
        self.tokenizer = self.llm.get_tokenizer()

    def generate(
        self, prompts: list[list[int]], decoding: DecodingParams, sampling: Sampling
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt of token ids, in order."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        from led_rl.engines.vllm_plugin.request_statistics import KEY as STATISTICS_KEY

        requests = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                max_tokens=sampling.max_tokens,
                seed=(sampling.seed * 1_000_003 + i * sampling.n + j) % 2**63,
                logprobs=0,
                detokenize=False,
                extra_args=decoding.to_extra_args() or None,
            )
            for i in range(len(prompts))
            for j in range(sampling.n)
        ]
        inputs = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts for _ in range(sampling.n)]
        outputs: list[Any] = self.llm.generate(inputs, requests, use_tqdm=False)
        markers = ThinkMarkers.from_tokenizer(self.tokenizer, decoding.start_marker, decoding.end_marker)
        unmarked = decoding.think_start == "prompt"
        completions = []
        for output in outputs:
            sampled = output.outputs[0]
            tokens = list(sampled.token_ids)
            logprobs = [step[token].logprob for step, token in zip(sampled.logprobs, tokens, strict=True)]
            thinking = markers.thinking_mask(output.prompt_token_ids, tokens, unmarked)
            statistics = (output.kv_transfer_params or {}).get(STATISTICS_KEY)
            completions.append(Completion(tokens, logprobs, thinking, sampled.finish_reason == "stop", statistics))
        return [completions[i : i + sampling.n] for i in range(0, len(completions), sampling.n)]

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
