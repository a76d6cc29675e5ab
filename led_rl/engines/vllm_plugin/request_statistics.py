"""What LED did for each request: in the request's output, and as Prometheus counters of a server.

The sums of a step's rows leave the device together with the step's tokens (`RequestDecoder.step_sums`) and ride on the
`ModelRunnerOutput` to the scheduler. It hands a finished request's sums on in `kv_transfer_params`, the one dict that
vLLM passes unread from there to `RequestOutput` and to the JSON of a completion. The front end names them and counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
from torch import Tensor
from vllm.v1.outputs import AsyncModelRunnerOutput

from led_rl.sampler.columns import named_statistics
from led_rl.sampler.request_decoder import RequestDecoder
from led_rl.sampler.support import StepSupport

KEY = "led"  # of kv_transfer_params
REQUEST_ID = attrgetter("request_id")


def request_statistics(sums: Sequence[float]) -> dict[str, Any]:
    """A request's statistics as its output shows them, from its sums (columns of `RequestDecoder.totals`).

    Returns:
        rows: tokens drawn as the request asks, the thinking ones as a rule. explored: of those, from the latent branch
        (a marginal draw counts its probability). read: rows whose latent layers were read. confidence (max p_L) and
        entropy_mu (nats, of what the token was drawn from): means over `rows`, None without rows. depth: list, entry j
        the number of rows that aggregated j latent layers. entropy_final: mean, if the engine counts it. undrawable,
        if there are any: rows whose logits were no distribution (led_rl/sampler/final_layer.py). cold_stops, likewise:
        thoughts that Soft Thinking ended; its `explored` counts the mixes that it fed. With n > 1 all are
        over the samples together.
    """
    values = named_statistics(sums)
    rows = values["rows"]
    statistics: dict[str, Any] = {"rows": int(rows), "explored": values["explored"], "read": int(values["read"])}
    for name in ("confidence", "entropy_mu", *(["entropy_final"] if values["entropy_final"] else [])):
        statistics[name] = values[name] / rows if rows else None
    for name in ("undrawable", "cold_stops"):
        if values[name]:
            statistics[name] = int(values[name])
    statistics["depth"] = [int(value) for name, value in values.items() if name.startswith("depth_")]
    return statistics


def decoder_of(runner: Any) -> RequestDecoder | None:
    """What draws in a model runner, V1 or V2; None if it was built without LED."""
    from led_rl.engines.vllm_plugin.runner_v1 import LEDBatch

    if hasattr(runner, "model_state"):  # runner V2
        return getattr(runner.model_state, "led_decoder", None)
    processors = runner.input_batch.logitsprocs.argmax_invariant
    return next((p.decoder for p in processors if isinstance(p, LEDBatch)), None)


def sample_tokens_and_sums(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `Worker.sample_tokens`, which both runners answer: the step's output takes its sums along.

    The copy of the sums to the host was put on the stream before that of the tokens: who waits for the tokens has both.
    """

    def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        decoder = decoder_of(self.model_runner)
        if decoder is None or (decoder.step_sums is None and decoder.step_support is None):
            return output
        sums, decoder.step_sums = decoder.step_sums, None
        support, decoder.step_support = decoder.step_support, None
        if isinstance(output, AsyncModelRunnerOutput):
            return OutputWithSums(output, decoder.slots.generation, sums, support)
        return with_sums(output, decoder.slots.generation, sums, support)

    return sample_tokens


class OutputWithSums(AsyncModelRunnerOutput):
    """A step's output that is still on its way from the device."""

    def __init__(
        self, output: AsyncModelRunnerOutput, generation: int, sums: Tensor | None, support: StepSupport | None
    ):
        self.output = output
        self.generation, self.sums, self.support = generation, sums, support

    def get_output(self) -> Any:
        return with_sums(self.output.get_output(), self.generation, self.sums, self.support)  # the output waits


def with_sums(output: Any, generation: int, sums: Tensor | None, support: StepSupport | None) -> Any:
    """The step's output with what is on the host by now: sums, and supports as vLLM's own sampling masks travel."""
    if sums is not None:
        output.led_sums = generation, sums.numpy()
    if support is not None:
        from vllm.v1.outputs import SamplingMaskLists

        output.sampling_masks = SamplingMaskLists(*support.lists())
    return output


class Batch:
    """A batch, for as long as the same requests go on, and the sums after its last accepted step.

    Attributes:
        generation: of the worker's slots (DecodingSlots): changes whenever a request joins (or rejoins after
            preemption) or leaves.
        row_of: rows of the batch, by request.
        step: (rows, 1 + statistics) of each request: tokens that the worker knew when it admitted the request (more at
            the next admission; 0 for requests that decode as usual), then its sums since.
        streams: whether a LED request has stop strings.
    """

    def __init__(self, generation: int, row_of: dict[str, int], step: np.ndarray, streams: bool):
        self.generation, self.row_of, self.step, self.streams = generation, dict(row_of), step, streams


@dataclass
class Followed:
    """A request's sums so far, kept on vLLM's `Request`. They start again at zero when it is admitted anew."""

    batch: Batch  # the last in which the scheduler took a token of it
    row: int  # the request's, there
    before: np.ndarray | float = 0.0  # (statistics,) of earlier admissions

    def follow(self, batch: Batch, row: int) -> None:
        now, last = batch.step[row], self.batch.step[self.row]
        if now[0] != last[0] or now[1] < last[1]:
            self.before = self.sums()
        self.batch, self.row = batch, row

    def sums(self) -> np.ndarray:
        """(statistics,) of the whole request."""
        return self.before + self.batch.step[self.row, 1:]


def hand_sums_on(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `Scheduler.update_from_output`: outputs of LED requests that end carry their sums.

    So does every output of a request with stop strings, as only the front end knows when such a one ends. Only
    tokens that the scheduler accepted count: a step that a preemption made void is drawn again. The fast path: if the
    batch is unchanged and every request got a token, all requests are updated at once.
    """

    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        if getattr(model_runner_output, "sampling_masks", None) is not None:
            self.return_sampling_mask = True  # its own switch refuses runner V1 and needs top-k
        told = getattr(model_runner_output, "led_sums", None)
        if told is None:
            return original(self, scheduler_output, model_runner_output)
        generation, step = told  # step: (rows, 1 + statistics)
        row_of = model_runner_output.req_id_to_index
        batch, requests = vars(self).get("led_batch", (None, {}))
        goes_on = batch is not None and generation == batch.generation and row_of == batch.row_of
        if not goes_on:  # before some of them end
            known, everyone = step[:, 0].tolist(), self.requests
            requests = {name: everyone[name] for name, row in row_of.items() if known[row] and name in everyone}
            batch = Batch(generation, row_of, step, any(request.sampling_params.stop for request in requests.values()))
        outputs = original(self, scheduler_output, model_runner_output)
        given = list(chain.from_iterable(client.outputs for client in outputs.values()))
        accepted = [output for output in given if output.new_token_ids]
        complete = row_of.keys() == set(map(REQUEST_ID, accepted))
        if goes_on and complete:
            batch.step = step
        else:
            if goes_on:  # requests without an output keep the sums of the batch before
                batch = Batch(generation, row_of, step, batch.streams)
            for output in accepted:
                if (request := requests.get(output.request_id)) is not None:
                    row = row_of[output.request_id]
                    if (followed := vars(request).get("led_followed")) is None:
                        request.led_followed = Followed(batch, row)
                    else:
                        followed.follow(batch, row)
            self.led_batch = (batch, requests) if complete else (None, {})
        for output in given if batch.streams else [output for output in given if output.finish_reason is not None]:
            request = requests.get(output.request_id)
            if request is None or not hasattr(request, "led_followed"):
                continue  # a standard request, or it failed before its first token
            if output.finish_reason is not None or request.sampling_params.stop:
                sums = request.led_followed.sums().tolist()
                output.kv_transfer_params = {**(output.kv_transfer_params or {}), KEY: sums}
        return outputs

    return update_from_output


def name_and_count(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `OutputProcessor.process_outputs`: names the sums, adds up the samples of n > 1, and counts what ends."""

    def process_outputs(self: Any, engine_core_outputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        named = []
        for output in engine_core_outputs:
            given = output.kv_transfer_params
            state = self.request_states.get(output.request_id) if given is not None and KEY in given else None
            if state is None:
                continue
            sums = given[KEY]
            named.append((output.request_id, sums))
            if state.parent_req is not None:
                samples = vars(state.parent_req).setdefault("led_sums", {})
                samples[output.request_id] = sums
                sums = [sum(column) for column in zip(*samples.values(), strict=True)]
            output.kv_transfer_params = {**given, KEY: request_statistics(sums)}
        result = original(self, engine_core_outputs, *args, **kwargs)
        count([sums for request_id, sums in named if request_id not in self.request_states])
        return result

    return process_outputs


def register_counters(original: Callable[..., None]) -> Callable[..., None]:
    """Wraps `OutputProcessor.__init__`, so that /metrics shows LED's counters before the first request."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        counters()

    return __init__


@cache
def counters() -> dict[str, Any]:
    """This process's counters, of requests that have ended; means are ratios to `led_rl:rows_total`."""
    from prometheus_client import Counter

    what = {
        "requests": "Sequences that asked for a decoding other than standard and have ended",
        "rows": "Their tokens drawn in that way",
        "explored": "Of these, from the latent branch",
        "read": "Of these, with latent layers read",
        "confidence": "Sum of the final layer's largest probability over the rows",
        "entropy_mu": "Sum of the entropy, in nats, of what the rows were drawn from",
        "undrawable": "Rows whose logits were no distribution: every token masked, NaN, or +inf",
        "cold_stops": "Thoughts that Soft Thinking ended, as it was sure for long enough",
    }
    made: dict[str, Any] = {name: Counter(f"led_rl:{name}_total", text) for name, text in what.items()}
    made["depth"] = Counter("led_rl:depth_total", "Rows by the number of latent layers they aggregated", ["depth"])
    return made


def count(ended: Sequence[Sequence[float]]) -> None:
    """Adds the sums of sequences that have ended."""
    if not ended:
        return
    values, by_name = named_statistics([sum(column) for column in zip(*ended, strict=True)]), counters()
    by_name["requests"].inc(len(ended))
    for name in ("rows", "explored", "read", "confidence", "entropy_mu", "undrawable", "cold_stops"):
        by_name[name].inc(values[name])
    for name, value in values.items():
        if name.startswith("depth_"):
            by_name["depth"].labels(name.removeprefix("depth_")).inc(value)
