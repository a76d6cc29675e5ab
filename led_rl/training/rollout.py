"""TRL's vLLM rollouts, in this process or from a server, made to sample with LED and to say what they did."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import requests
import torch
import trl.generation.vllm_generation as trl_generation
import trl.trainer.grpo_trainer as trl_grpo_trainer
from accelerate.utils import broadcast_object_list
from trl.generation.vllm_client import VLLMClient, parse_logprobs
from trl.generation.vllm_generation import VLLMGeneration

from led_rl.decoding import PREFIX, DecodingParams, UserError
from led_rl.engines.vllm_engine import CPU_ENGINE_ARGUMENTS, engine_environment, request_decoder
from led_rl.sampler.capture_options import SUPPORT_VARIABLE, EngineOptions

REQUESTS_AT_A_TIME = 64  # to a server


class RolloutServerError(UserError):
    """The rollout server would not sample with the decoding that it is asked for."""


class LEDClient(VLLMClient):
    """TRL's client of a vLLM server; connecting makes sure that the server really samples with `decoding`.

    A server without LED answers every request, and ignores the keys that ask for it.
    """

    def __init__(self, *args: Any, decoding: DecodingParams, wants_supports: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.wants_supports = wants_supports
        self.supports: list[list[list[int]]] = []  # of the last call of `generate`
        if not decoding.is_standard:
            self.check_server_decoding(decoding)
        if wants_supports:
            self.check_server_supports()

    def generate(  # type: ignore[override]
        self, prompts: Any, features: Any = None, n: int = 1, **sampling: Any
    ) -> dict[str, Any]:
        """As TRL's; with supports from the endpoint that hands them on, one request a prompt."""
        if not self.wants_supports or features is not None:
            return super().generate(prompts, features, n=n, **sampling)
        extra = dict(sampling.pop("generation_kwargs", None) or {})
        extra["extra_args"] = {**extra.get("extra_args", {}), **extra.pop("vllm_xargs", {})}
        if (regex := sampling.pop("structured_outputs_regex", None)) is not None:
            extra["structured_outputs"] = {"regex": regex}
        # The server would return only the sequences of a request that finished last: https://github.com/vllm-project/vllm/pull/52399
        parameters = {"n": n, **sampling, "output_kind": 2, **extra}  # FINAL_ONLY

        def choices_of(prompt: list[int]) -> list[dict[str, Any]]:
            body = {"model": self.model, "token_ids": prompt, "sampling_params": parameters}
            return self._post(f"{self.base_url}/inference/v1/generate", json=body)["choices"]

        with ThreadPoolExecutor(max_workers=min(REQUESTS_AT_A_TIME, len(prompts))) as executor:
            choices = [choice for answer in executor.map(choices_of, prompts) for choice in answer]
        logprobs, logprob_token_ids = parse_logprobs([choice["logprobs"] for choice in choices])
        self.supports = [choice.get("sampling_mask") or [] for choice in choices]
        return {
            "prompt_ids": list(prompts),
            "completion_ids": [choice["token_ids"] for choice in choices],
            "logprobs": logprobs,
            "logprob_token_ids": logprob_token_ids,
        }

    def check_server_supports(self) -> None:
        """Raises RolloutServerError if the server does not say which ids a token could have been."""
        self.generate([[0]], max_tokens=1, logprobs=0, top_k=1)
        if not self.supports[0]:
            raise RolloutServerError(
                f"the vLLM server at {self.base_url} does not say which tokens could be sampled, which train_support: "
                f"sampled needs; start it with launch/serve_rollouts.sh, or {SUPPORT_VARIABLE}=1 led-rl serve; allowed "
                "besides: train_support: vocabulary"
            )

    def check_server_decoding(self, decoding: DecodingParams) -> None:
        """Raises RolloutServerError, naming the reason and the cure."""
        cure = "start it with `led-rl serve` (launch/serve_rollouts.sh)"
        wrong = f"{PREFIX}_no_such_key"
        status, answer = self._one_token({wrong: 1})
        if status != 400 or wrong not in str(answer):
            raise RolloutServerError(
                f"the vLLM server at {self.base_url} does not know LED: it answered HTTP {status} to a request with "
                f"the unknown key {wrong}, and would ignore decoding: {decoding.decoding!r} in silence; {cure}"
            )
        status, answer = self._one_token(decoding.to_extra_args())
        if status != 200:
            reason = answer.get("error", {}).get("message", answer)
            raise RolloutServerError(
                f"the vLLM server at {self.base_url} refuses decoding: {decoding.decoding!r}: {reason}"
            )
        # A token that is the only candidate has log-probability 0, unless the server reports the final layer's.
        only = DecodingParams("top_k_control", k=1, think_only=False)
        status, answer = self._one_token(only.to_extra_args())
        logprob = answer["choices"][0]["logprobs"]["token_logprobs"][0] if status == 200 else None
        if logprob is None or abs(logprob) > 1e-5:
            raise RolloutServerError(
                f"the vLLM server at {self.base_url} does not report the log-probabilities that tokens were sampled "
                f"with: it gave {logprob} for a token without alternatives. Start it with --logprobs-mode "
                "processed_logprobs, the default of `led-rl serve`"
            )

    def _one_token(self, vllm_xargs: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """HTTP status and body of a request for one token; not repeated, as `self.session` would after an error."""
        request = {"model": self.model, "prompt": "1 + 1 =", "max_tokens": 1, "logprobs": 0, "vllm_xargs": vllm_xargs}
        response = requests.post(f"{self.base_url}/v1/completions", json=request, timeout=120)
        return response.status_code, response.json()


class LEDVLLMGeneration(VLLMGeneration):
    """`VLLMGeneration` with the engine arguments that TRL hard-codes open, and its wall time measured.

    Args:
        decoding: what a server must be able to do; the requests carry it already.
        wants_supports: after `generate`, `supports` holds a record for each token of each completion
            (led_rl/sampler/support.py).
        options: what the engine captures for LED; depth 0 builds plain vLLM.
        engine_arguments: arguments of `vllm.LLM` that take precedence over TRL's.
        run_seed: the run's seed; each tensor-parallel group of processes samples from a stream of its own.
    """

    def __init__(
        self,
        *args: Any,
        options: EngineOptions,
        engine_arguments: dict[str, Any],
        run_seed: int,
        decoding: DecodingParams | None = None,
        wants_supports: bool = False,
        **kwargs: Any,
    ):
        self.wants_supports = wants_supports
        self.supports: list[list[list[int]]] | None = None
        self.decoding = decoding or DecodingParams()
        self.options = options
        self.run_seed = run_seed
        self.engine_arguments = engine_arguments
        self.sync_seconds = 0.0  # since `take_seconds`
        self.generate_seconds = 0.0
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        if self.mode == "server":
            client = partial(LEDClient, decoding=self.decoding, wants_supports=self.wants_supports)
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

    def sync_weights(self) -> None:
        start = time.perf_counter()
        super().sync_weights()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.sync_seconds += time.perf_counter() - start

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        start, synced = time.perf_counter(), self.sync_seconds
        try:
            if not self.wants_supports:
                return super().generate(*args, **kwargs)
            if self.mode == "server":
                return self._generate_by_server(*args, **kwargs)
            return self._generate_here(*args, **kwargs)
        finally:  # waking a sleeping engine may sync weights on the way
            self.generate_seconds += time.perf_counter() - start - (self.sync_seconds - synced)

    def _generate_here(self, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        generate = self.llm.generate
        told: list[Any] = []

        def note(*inputs: Any, **options: Any) -> Any:
            outputs = generate(*inputs, **options)
            told.extend(sampled.sampling_mask for output in outputs for sampled in output.outputs)
            return outputs

        with replaced(self.llm, "generate", note):
            result = super().generate(prompts, *args, **kwargs)
        if self.tensor_parallel_size > 1:  # every process of the group generated for all
            rank = torch.distributed.get_rank(group=self.tp_group)
            told = told[rank * len(prompts) : (rank + 1) * len(prompts)]
        self._take_supports([[] if mask is None else mask.token_ids for mask in told], result[1])
        return result

    def _generate_by_server(self, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().generate(prompts, *args, **kwargs)
        client: Any = self.vllm_client if self.accelerator.is_main_process else None
        told = [None if client is None else client.supports]
        broadcast_object_list(told, from_process=0)
        first = self.accelerator.process_index * len(prompts)
        supports = told[0]
        assert supports is not None
        self._take_supports(supports[first : first + len(prompts)], result[1])
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
        """`RequestDecoder.totals` of this process since the last call; None without LED or from a server."""
        if self.mode == "server" or not self.options.depth:
            return None
        decoder = request_decoder(self.llm)
        return None if decoder is None else decoder.totals(reset=True)


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
