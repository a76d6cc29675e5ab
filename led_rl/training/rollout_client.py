"""The client of a rollout server: TRL's, which makes sure that the server samples as it is asked to."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from trl.generation.vllm_client import VLLMClient, parse_logprobs

from led_rl.decoding import PREFIX, DecodingParams, UserError
from led_rl.sampler.capture_options import SUPPORT_VARIABLE

REQUESTS_AT_A_TIME = 64  # to a server


class RolloutServerError(UserError):
    """The rollout server would not sample with the decoding that it is asked for."""


class LEDClient(VLLMClient):
    """TRL's client of a vLLM server; connecting makes sure that the server really samples with `decoding`.

    A server without LED answers every request, and ignores the keys that ask for it.
    """

    def __init__(
        self,
        *args: Any,
        decoding: DecodingParams,
        wants_supports: bool = False,
        wants_endings: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.wants_supports = wants_supports
        self.wants_endings = wants_endings
        self.supports: list[list[list[int]]] = []  # of the last call of `generate`
        self.stopped: list[bool] = []  # likewise: by the model or a stop string, not by a limit of length
        if not decoding.is_standard:
            self.check_server_decoding(decoding)
        if wants_supports:
            self.check_server_supports()

    def generate(  # type: ignore[override]
        self, prompts: Any, features: Any = None, n: int = 1, **sampling: Any
    ) -> dict[str, Any]:
        """As TRL's; with supports or endings from the endpoint that hands them on, one request a prompt."""
        if not (self.wants_supports or self.wants_endings) or features is not None:
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
        self.stopped = [choice.get("finish_reason") == "stop" for choice in choices]
        return {
            "prompt_ids": list(prompts),
            "completion_ids": [choice["token_ids"] for choice in choices],
            "logprobs": logprobs,
            "logprob_token_ids": logprob_token_ids,
        }

    def check_server(self, total_timeout: float = 0.0, retry_interval: float = 2.0) -> None:
        """Waits for the server; TRL's waits for ever where something answers /health with another status than 200.

        Raises RolloutServerError that says what came back last, once `total_timeout` seconds have passed.
        """
        deadline = time.monotonic() + total_timeout
        while True:
            left = deadline - time.monotonic()
            try:
                response = requests.get(f"{self.base_url}/health", timeout=max(left, 1.0))
            except requests.exceptions.RequestException as error:
                found = f"no answer ({type(error).__name__})"
            else:
                if response.status_code == 200:
                    self.host = response.headers.get("X-Forwarded-For", self.host)  # as TRL's
                    return
                found = f"HTTP {response.status_code}"
            if deadline - time.monotonic() <= retry_interval:
                raise RolloutServerError(
                    f"no vLLM server is ready at {self.base_url}: {found} to /health after {total_timeout:g} seconds "
                    "(vllm_server_timeout). Start one with launch/serve_rollouts.sh, or set vllm_server_base_url"
                )
            time.sleep(retry_interval)

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
