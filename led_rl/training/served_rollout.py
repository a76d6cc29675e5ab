"""Rollouts from a server that may fail to answer or be started anew: retried, and never with old weights."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from accelerate.utils import broadcast_object_list
from trl.generation.vllm_generation import VLLMGeneration

from led_rl.training.rollout_client import RolloutServerError, ServerLost, summed_statistics

RECOVERIES = 3  # of one rollout or weight sync, before the run ends
logger = logging.getLogger(__name__)


class ServedGeneration(VLLMGeneration):
    """TRL's `VLLMGeneration`; with `mode: server`, what a lost server has not done is done again.

    Only the main process talks to the server, but all take part in what follows, since weights are gathered from all.
    A server that was started anew has the weights of its checkpoint: it gets the trainer's before it generates again.

    Attributes:
        told: of the last `generate` of a server, on all processes: `supports`, `stopped` and `statistics`.
    """

    told: dict[str, Any]
    vllm_client: Any  # of the main process, with `mode: server`

    def sync_weights(self) -> None:
        if self.mode != "server":
            return super().sync_weights()
        return self._until_served(super().sync_weights, "sending weights")

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        if self.mode != "server":
            return super().generate(*args, **kwargs)
        return self._until_served(partial(super().generate, *args, **kwargs), "a rollout")

    def _until_served(self, ask: Callable[[], Any], what: str) -> Any:
        """What `ask` returns. Raises RolloutServerError, the same on all processes, if that fails for good."""
        sends = what == "sending weights"
        for trial in range(RECOVERIES + 1):
            with self._noting() as noted:
                result = ask()
            error, told = self._agree(None if noted is None else noted.outcome())
            if error is None:
                self.told = told
                return result
            message, may_return = error
            if not may_return or trial == RECOVERIES:
                tries = f" ({what} was tried {trial + 1} times)" if trial else ""
                raise _ended(message + tries)
            restarted = self._recover(message, pause=2.0**trial if trial else 0.0)
            if restarted and not sends:
                self.sync_weights()
        raise AssertionError("unreachable")

    def _recover(self, message: str, pause: float) -> bool:
        """Waits for the server, and says so; returns whether it needs the weights. Raises on all processes if not."""
        outcome: Any = None
        if self.accelerator.is_main_process:
            started = time.monotonic()
            logger.warning(f"{message}; waiting for it, up to {self.server_timeout:g} seconds (vllm_server_timeout)")
            time.sleep(pause)
            try:
                restarted = self._reconnect(started + self.server_timeout)
            except RolloutServerError as error:
                outcome = str(error)
            else:
                outcome = restarted
                again = "was restarted, and gets the weights anew" if restarted else "answers again"
                logger.warning(f"the rollout server {again}, after {time.monotonic() - started:.0f} seconds")
        outcome = self._agree(outcome)
        if isinstance(outcome, str):
            raise _ended(outcome)
        return outcome

    def _reconnect(self, deadline: float) -> bool:
        while True:
            try:
                return self.vllm_client.reconnect(max(deadline - time.monotonic(), 0.0), self.accelerator.device)
            except ServerLost:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)

    def _agree(self, value: Any) -> Any:
        """The main process's value, on all."""
        values = [value]
        broadcast_object_list(values, from_process=0)
        return values[0]

    @contextmanager
    def _noting(self) -> Iterator["NotingClient | None"]:
        """While open, errors of the client are noted instead of raised in the midst of TRL's collectives."""
        if not self.accelerator.is_main_process:
            yield None
            return
        client = self.vllm_client
        self.vllm_client = noted = NotingClient(client)
        try:
            yield noted
        finally:
            self.vllm_client = client


class NotingClient:
    """A client whose first RolloutServerError is kept in `error`; from then on it answers with nothing."""

    def __init__(self, client: Any):
        self._client = client
        self.error: RolloutServerError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def outcome(self) -> tuple[tuple[str, bool] | None, dict[str, Any]]:
        """The error's message and whether the server may come back, None without error; what the server told."""
        error = None if self.error is None else (str(self.error), isinstance(self.error, ServerLost))
        client = self._client
        told = {"supports": client.supports, "stopped": client.stopped}
        return error, told | {"statistics": summed_statistics(client.statistics)}

    def generate(self, **kwargs: Any) -> dict[str, Any]:
        nothing: dict[str, Any] = {key: [] for key in ("prompt_ids", "completion_ids", "logprobs", "logprob_token_ids")}
        return self._try(lambda: self._client.generate(**kwargs), nothing)

    def image_features(self, images: list[Any]) -> list[Any]:
        return self._try(lambda: self._client.image_features(images), [None] * len(images))

    def update_named_params(self, metadata: Any, named_params: Any) -> None:
        self._try(lambda: self._client.update_named_params(metadata, named_params), None)

    def reset_prefix_cache(self) -> None:
        self._try(self._client.reset_prefix_cache, None)

    def _try(self, call: Callable[[], Any], nothing: Any) -> Any:
        if self.error is not None:
            return nothing
        try:
            return call()
        except RolloutServerError as error:
            self.error = error
            return nothing


def _ended(message: str) -> RolloutServerError:
    error = RolloutServerError(
        f"{message}. The run ends; its checkpoints are as they were, and the same command goes on from the last one"
    )
    error.everywhere = True
    return error
