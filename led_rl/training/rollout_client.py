"""The client of a rollout server: TRL's, which makes sure that the server samples as it is asked to."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from trl.generation.vllm_client import VLLMClient, parse_logprobs

from led_rl.decoding import PREFIX, DecodingParams, UserError
from led_rl.sampler.capture_options import SUPPORT_VARIABLE

REQUESTS_AT_A_TIME = 64  # to a server
LONGEST_PAUSE = 15.0  # seconds between two looks at a server that is not ready


class RolloutServerError(UserError):
    """The rollout server would not sample as it is asked to, or is gone.

    Attributes:
        everywhere: whether all processes of the run raise it, so that one of them is enough to say it.
    """

    everywhere = False


class ServerLost(RolloutServerError):
    """The server did not answer, or has been started anew and lost the weights it was sent. It may come back."""


class LEDClient(VLLMClient):
    """TRL's client of a vLLM server; connecting makes sure that the server really samples with `decoding`.

    A server without LED answers every request, and ignores the keys that ask for it.

    Args:
        request_timeout: seconds that the server may take to answer one request.

    Attributes:
        instance: which process of the server holds the trainer's weights; None before `init_communicator`.
        statistics: what LED did, as the server tells it for each request of the last call of `generate`.
        supports, stopped: of each completion of that call; `stopped`: by the model or a stop string, not by a limit.
    """

    def __init__(
        self,
        *args: Any,
        decoding: DecodingParams,
        wants_supports: bool = False,
        wants_endings: bool = False,
        request_timeout: float = 3600.0,
        **kwargs: Any,
    ):
        self.request_timeout = request_timeout
        self.instance: str | None = None
        self.decoding = decoding
        self.wants_supports = wants_supports
        self.wants_endings = wants_endings
        self.statistics: list[dict[str, Any]] = []
        self.supports: list[list[list[int]]] = []
        self.stopped: list[bool] = []
        super().__init__(*args, **kwargs)
        # TRL's session sends a failed request again by itself: to a restarted server, too, which has other weights
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=REQUESTS_AT_A_TIME))
        self.check_sampling()

    def generate(  # type: ignore[override]
        self, prompts: Any, features: Any = None, n: int = 1, **sampling: Any
    ) -> dict[str, Any]:
        """As TRL's; with supports or endings from the endpoint that hands them on, one request a prompt.

        Raises:
            ServerLost: the server did not answer, or was restarted in the meantime.
        """
        self.statistics, self.supports, self.stopped = [], [], []
        if (self.wants_supports or self.wants_endings) and features is None:
            output = self._generate_with_supports(prompts, n, **sampling)
        elif self.decoding.is_standard or features is not None:
            output = super().generate(prompts, features, n=n, **sampling)
        else:  # an answer to several prompts tells LED's statistics of the first one alone
            one: Any = partial(super().generate, n=n, **sampling)
            with ThreadPoolExecutor(max_workers=min(REQUESTS_AT_A_TIME, len(prompts))) as executor:
                answers = list(executor.map(lambda prompt: one([prompt]), prompts))
            output = {
                key: None if value is None else [item for answer in answers for item in answer[key]]
                for key, value in answers[0].items()
            }
        self._check_instance()
        return output

    def _generate_with_supports(self, prompts: Any, n: int, **sampling: Any) -> dict[str, Any]:
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

    def init_communicator(self, device: Any = 0) -> None:
        """As TRL's: opens the connection for weights, and notes which process it leads to."""
        try:
            super().init_communicator(device)
        except requests.exceptions.RequestException as error:
            raise ServerLost(self._unanswered("the connection for weights", error)) from error
        self.instance = self.server_instance()

    def update_named_params(self, metadata: Any, named_params: Any) -> None:
        """As TRL's; takes `named_params` to its end in any case, as other processes gather each with this one."""
        try:
            self._check_instance()
            super().update_named_params(metadata, named_params)
            self._check_instance()
        except RolloutServerError:
            for _ in named_params:
                pass
            raise

    def reconnect(self, seconds: float, device: Any) -> bool:
        """Waits for the server at most `seconds`; returns whether it was started anew, and so needs the weights.

        Raises:
            RolloutServerError: it did not come back, or does not sample as it is asked to any more.
        """
        self.check_server(seconds)
        if self.server_instance() == self.instance:
            return False
        self.close_communicator()
        self.model = self._get(f"{self.base_url}/v1/models")["data"][0]["id"]
        self.check_sampling()
        self.init_communicator(device)
        return True

    def server_instance(self) -> str:
        """Identifies the server's process: vLLM draws it anew at each start."""
        answer = self._get(f"{self.base_url}/server_info", params={"config_format": "json"})
        return str(answer["vllm_config"]["instance_id"])

    def _check_instance(self) -> None:
        if self.instance is not None and self.server_instance() != self.instance:
            raise ServerLost(f"the rollout server at {self.base_url} was restarted and lost the weights it was sent")

    def _get(self, url: str, **kwargs: Any) -> dict[str, Any]:
        return self._ask("GET", url, **kwargs)

    def _post(self, url: str, **kwargs: Any) -> dict[str, Any]:
        answer = self._ask("POST", url, **kwargs)
        told = answer.get("kv_transfer_params") if isinstance(answer, dict) else None
        if told and PREFIX in told:
            self.statistics.append(told[PREFIX])
        return answer

    def _ask(self, method: str, url: str, **kwargs: Any) -> dict[str, Any]:
        """The JSON that the server answers; raises ServerLost, or RolloutServerError where it refuses."""
        place = url.removeprefix(self.base_url)
        try:
            response = self.session.request(method, url, **{"timeout": self.request_timeout, **kwargs})
            if response.status_code == 200:
                return response.json()
        except requests.exceptions.RequestException as error:
            raise ServerLost(self._unanswered(place, error)) from error
        kind = ServerLost if response.status_code >= 500 else RolloutServerError
        raise kind(
            f"the rollout server at {self.base_url} answered HTTP {response.status_code} to {place}: "
            f"{' '.join(response.text.split())[:300]}"
        )

    def _unanswered(self, place: str, error: Exception) -> str:
        late = isinstance(error, requests.exceptions.Timeout)
        how = f"did not answer {place} within {self.request_timeout:g} seconds (vllm_server_request_timeout)"
        return f"the rollout server at {self.base_url} " + (how if late else f"broke off {place} ({reason_of(error)})")

    def check_server(self, total_timeout: float = 0.0, retry_interval: float = 2.0) -> None:
        """Waits for the server; TRL's waits for ever where something answers /health with another status than 200.

        Looks again after `retry_interval` seconds, then after twice as many, up to LONGEST_PAUSE. Raises
        RolloutServerError that says what came back last, once `total_timeout` seconds have passed.
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
            left = deadline - time.monotonic()
            if left <= min(retry_interval, 2.0):
                raise RolloutServerError(
                    f"no vLLM server is ready at {self.base_url}: {found} to /health after {total_timeout:.3g} seconds "
                    "(vllm_server_timeout). Start one with launch/serve_rollouts.sh, or set vllm_server_base_url"
                )
            time.sleep(min(retry_interval, left))
            retry_interval = min(2 * retry_interval, LONGEST_PAUSE)

    def check_sampling(self) -> None:
        """Raises RolloutServerError unless the server samples with the run's decoding, and tells supports if needed."""
        if not self.decoding.is_standard:
            self.check_server_decoding(self.decoding)
        if self.wants_supports:
            self.check_server_supports()

    def check_server_supports(self) -> None:
        """Raises RolloutServerError if the server does not say which ids a token could have been."""
        self._generate_with_supports([[0]], 1, max_tokens=1, logprobs=0, top_k=1)
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
        """HTTP status and body of a request for one token."""
        request = {"model": self.model, "prompt": "1 + 1 =", "max_tokens": 1, "logprobs": 0, "vllm_xargs": vllm_xargs}
        try:
            response = requests.post(f"{self.base_url}/v1/completions", json=request, timeout=120)
            return response.status_code, response.json()
        except requests.exceptions.RequestException as error:
            raise ServerLost(self._unanswered("/v1/completions", error)) from error


def reason_of(error: BaseException) -> str:
    """The innermost cause of a failed request, which libraries wrap several times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return type(error).__name__ + (f": {error}" if str(error) else "")


def summed_statistics(requests_: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Sums over requests, with the names of `RequestDecoder.totals`, of what a server tells of each (docs/serving.md).

    Without `entropy_final` unless the server counts it. Empty if no request told anything.
    """
    sums: dict[str, float] = {}
    for told in requests_:
        values: dict[str, float] = {name: told.get(name, 0) for name in ("rows", "explored", "read", "undrawable")}
        means = [name for name in ("confidence", "entropy_mu", "entropy_final") if told.get(name) is not None]
        values |= {name: told[name] * told["rows"] for name in means}
        values |= {f"depth_{j}": count for j, count in enumerate(told["depth"])}
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums
