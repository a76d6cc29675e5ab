"""TRL's vLLM rollouts, in this process or from a server, made to sample with LED and to say what they did."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import requests
import torch
import trl.generation.vllm_generation as trl_generation
import trl.trainer.grpo_trainer as trl_grpo_trainer
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration

from led_rl.decoding import PREFIX, DecodingParams
from led_rl.engines.vllm_engine import CPU_ENGINE_ARGUMENTS, engine_environment, request_decoder
from led_rl.sampler.capture_options import EngineOptions


class RolloutServerError(RuntimeError):
    """The rollout server would not sample with the decoding that it is asked for."""


class LEDClient(VLLMClient):
    """TRL's client of a vLLM server; connecting makes sure that the server really samples with `decoding`.

    A server without LED answers every request, and ignores the keys that ask for it.
    """

    def __init__(self, *args: Any, decoding: DecodingParams, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not decoding.is_standard:
            self.check_server_decoding(decoding)

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
        **kwargs: Any,
    ):
        self.decoding = decoding or DecodingParams()
        self.options = options
        self.run_seed = run_seed
        self.engine_arguments = engine_arguments
        self.sync_seconds = 0.0  # since `take_seconds`
        self.generate_seconds = 0.0
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        if self.mode == "server":
            with replaced(trl_generation, "VLLMClient", partial(LEDClient, decoding=self.decoding)):
                return super()._init_vllm()
        build = trl_generation.LLM
        cpu = {} if torch.cuda.is_available() else CPU_ENGINE_ARGUMENTS

        def build_with_ours(**trl_arguments: Any) -> Any:
            # TRL seeds the engine with the rank alone, which also reseeds this process: pass the run's seed on.
            seed = (self.run_seed * 1_000_003 + trl_arguments.pop("seed")) % 2**31
            return build(**{**trl_arguments, "seed": seed, **cpu, **self.engine_arguments})

        with engine_environment(self.options), replaced(trl_generation, "LLM", build_with_ours):
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
            return super().generate(*args, **kwargs)
        finally:  # waking a sleeping engine may sync weights on the way
            self.generate_seconds += time.perf_counter() - start - (self.sync_seconds - synced)

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
