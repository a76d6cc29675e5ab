"""How far what an engine did, step by step, is from what transformers says it should have done.

`led-rl doctor` and the tests ask the engine for tokens (`generate_traced`) and compare every one of them (`compare`).
"""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.transformers_engine import CHOOSING, TransformersEngine, chosen_layer_policy, standard_policy
from led_rl.engines.vllm_engine import request_decoder
from led_rl.led import led_distribution
from led_rl.sampler.support import read_record

TOLERANCE = 1e-5  # of probabilities and log-probabilities in float32 on a CPU
Grammar = Callable[[list[int]], Collection[int]]  # the tokens that may follow what has been generated


@dataclass
class Agreement:
    """What `compare` saw.

    Attributes:
        seen: how many phase changes, tables, log-probabilities, supports, and tokens drawn by each decoding.
        tables: for each token whose latent layers were read, the largest error of a probability in its table.
        logprobs: for each token, the error of its log-probability, nats.
        outside: tokens that transformers could not have drawn: of probability 0 there.
        faults: what no rounding explains, a sentence each.
    """

    seen: Counter = field(default_factory=Counter)
    tables: list[float] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    outside: int = 0
    faults: list[str] = field(default_factory=list)


def sampling_params(**changes: Any) -> Any:
    """vLLM's SamplingParams of a short request with log-probabilities."""
    from vllm import SamplingParams

    settings = {"max_tokens": 24, "temperature": 0.8, "logprobs": 0, "ignore_eos": True, "detokenize": False}
    return SamplingParams(**(settings | changes))


def generate_traced(
    llm: Any, prompts: Sequence[list[int]], params: Sequence[Any], arrivals: Sequence[int] | None = None
) -> tuple[list[Any], dict[tuple[Any, int], list]]:
    """Outputs, and the traced rows by (tag, position): more than one if a step was computed again, or with n > 1.

    Args:
        params: vLLM's SamplingParams; the entry `tag` of their extra_args names a request in the trace.
        arrivals: the engine's step before which each request joins, ascending; None: all join at once.
    """
    from vllm.sampling_params import RequestOutputKind

    decoder = request_decoder(llm)
    assert decoder is not None
    decoder.trace = []
    engine, added = llm.llm_engine, 0
    outputs: dict[int, Any] = {}
    for step in itertools.count():
        while added < len(prompts) and (arrivals is None or arrivals[added] <= step):
            param = params[added].clone()
            param.output_kind = RequestOutputKind.FINAL_ONLY
            engine.add_request(str(added), {"prompt_token_ids": prompts[added]}, param)
            added += 1
        outputs |= {int(output.request_id): output for output in engine.step() if output.finished}
        if len(outputs) == len(prompts):
            break
    rows: dict[tuple[Any, int], list] = {}
    for traced in decoder.trace:
        for draw in {id(draw): draw for draw, _ in traced.draws.values()}.values():
            vars(draw).update({name: value.cpu() for name, value in vars(draw).items() if value is not None})
        for row, extra_args in enumerate(traced.extra_args):
            if extra_args is not None:
                rows.setdefault((extra_args["tag"], int(traced.positions[row])), []).append((traced, row))
    decoder.trace = None
    return [outputs[i] for i in range(len(prompts))], rows


def edited(logits: Tensor, prompt: list[int], tokens: list[int], params: Any, grammar: Grammar | None = None) -> Tensor:
    """(tokens, vocab) final-layer logits after all that a request may ask of them, one token and one rule at a time."""
    logits = logits.clone()
    for step in range(len(tokens)):
        row, so_far = logits[step], tokens[:step]
        for allowed in (grammar and grammar(so_far), params.allowed_token_ids):
            if allowed:
                keep = torch.zeros_like(row, dtype=torch.bool)
                keep[list(allowed)] = True
                row[~keep] = -torch.inf
        for words in params.bad_words_token_ids or []:
            if so_far[len(so_far) - len(words) + 1 :] == words[:-1]:
                row[words[-1]] = -torch.inf
        if step < params.min_tokens:
            row[list(params.all_stop_token_ids)] = -torch.inf
        for token, bias in (params.logit_bias or {}).items():
            row[token] += bias
        if params.repetition_penalty != 1:
            seen = torch.tensor(sorted({*so_far, *prompt}))
            scale = params.repetition_penalty
            row[seen] = torch.where(row[seen] > 0, row[seen] / scale, row[seen] * scale)
        for token, count in Counter(so_far).items():
            row[token] -= params.frequency_penalty * count + params.presence_penalty
    return logits


@torch.no_grad()
def compare(
    reference: TransformersEngine,
    prompts: Sequence[list[int]],
    params: Sequence[Any],
    outputs: Sequence[Any],
    traced: Mapping[tuple[Any, int], list],
    grammars: Mapping[int, Grammar] | None = None,
    tolerance: float = TOLERANCE,
) -> Agreement:
    """Holds phase, table, log-probability and support of every generated token against the oracle.

    Args:
        traced: of `generate_traced`, requests tagged by their number.
        grammars: by number of the request, what its structured output allows.
        tolerance: tells, among several steps that may have drawn a token, those that did; and which ids may lie on
            either side of a truncation. Errors are reported whatever their size.
    """
    from vllm.tokenizers.hf import get_cached_tokenizer

    found_all = Agreement()
    seen = found_all.seen
    markers = cache(reference.markers)
    for i, (prompt, param, output) in enumerate(zip(prompts, params, outputs, strict=True)):
        decoding = DecodingParams.from_extra_args(param.extra_args)
        needs_phase = decoding.is_standard or decoding.think_only
        param = param.clone()  # to know of bad words and end tokens what the engine's copy knows
        param.update_from_tokenizer(get_cached_tokenizer(reference.tokenizer))
        param.update_from_generation_config({}, reference.tokenizer.eos_token_id)
        for sample in output.outputs:
            tokens = list(sample.token_ids)
            thinking = [True] * len(tokens)
            if needs_phase:
                thinking = markers(decoding).thinking_mask(prompt, tokens, decoding.think_start == "prompt")
            seen["phase changes"] += sum(a != b for a, b in itertools.pairwise(thinking))
            hidden = reference.model(torch.tensor([prompt + tokens[:-1]]), output_hidden_states=True).hidden_states
            logits = reference.layer_logits([state[0, len(prompt) - 1 :] for state in hidden], decoding)
            logits[:, 0] = edited(logits[:, 0], prompt, tokens, param, (grammars or {}).get(i))
            led = led_distribution(
                logits, decoding.k, param.temperature, exploit=decoding.exploit, aggregation=decoding.aggregation
            )
            chooses = decoding.decoding in CHOOSING  # their tables are of temperature 1, without forbidden tokens
            if chooses:
                logits = logits.masked_fill(logits[:, :1].isneginf(), -torch.inf)
            posteriors = (logits / (1.0 if chooses else param.temperature or 1.0)).softmax(-1)
            settings = param.temperature, param.top_p, max(param.top_k, 0), param.min_p
            standard = standard_policy(logits[:, 0], Sampling(*settings))
            control = [standard_policy(logits[:, 0], Sampling(param.temperature, top_k=decoding.k))]
            if chooses:
                control = [
                    chosen_layer_policy(logits, one, param.temperature) for one in _at_edges(decoding, tolerance)
                ]
            for step, token in enumerate(tokens):
                place = f"request {i}, token {step}"
                by_led = not decoding.is_standard and (thinking[step] or not decoding.think_only)
                found = traced.get((i, len(prompt) - 1 + step), [])
                if not decoding.is_standard and not found:
                    found_all.faults.append(f"{place}: was not followed")
                    continue
                expected = {"standard": standard[step]}
                if by_led:
                    table = None if decoding.decoding == "near_final" else posteriors[step]  # keeps none of its choice
                    draws, error = _agreeing(found, table, tolerance)
                    if not draws:
                        found_all.faults.append(f"{place}: LED did not draw it")
                        continue
                    if error is not None:
                        found_all.tables.append(error)
                        seen["tables"] += 1
                    expected = {}
                    for draw, at in draws:
                        expected |= _policy(decoding, led, [policy[step] for policy in control], step, draw, at)
                    seen[f"drawn by {decoding.decoding}"] += 1
                else:
                    if found and all(at_step.active[row] for at_step, row in found):
                        found_all.faults.append(f"{place}: drawn by LED, but not thinking")
                    if not param.temperature:  # vLLM reports log-probabilities at temperature 1
                        if token != int(logits[step, 0].argmax()):
                            found_all.outside += 1
                        continue
                if (mask := getattr(sample, "sampling_mask", None)) is not None:  # vLLM 0.26 has none
                    record = mask.token_ids[step]
                    ordering = control[0][step] if decoding.decoding == "near_final" else posteriors[step, 0]
                    final = ordering if by_led else None
                    if not _supports(record, expected.values(), token, final, param, tolerance):
                        found_all.faults.append(f"{place}: support {record}")
                    seen["supports"] += 1
                    seen["truncated supports"] += not by_led and bool(record)
                if sample.logprobs:
                    logprob = sample.logprobs[step][token].logprob
                    likely = [float(policy[token]) for policy in expected.values() if policy[token] > 0]
                    if not likely:
                        found_all.outside += 1
                        continue
                    # a product's logarithm has the errors of all its layers
                    scale = 8 if decoding.aggregation == "product" else 1
                    found_all.logprobs.append(min(abs(logprob - _log(p)) for p in likely) / scale)
                    seen["log-probabilities"] += 1
    return found_all


def _log(probability: float) -> float:
    return float(torch.tensor(probability).log())


def _supports(
    record: list[int],
    policies: Iterable[Tensor],
    token: int,
    final: Tensor | None,
    param: Any,
    tolerance: float,
) -> bool:
    """Whether a token's record names the ids of one of the policies that it may have been drawn from.

    An id at the edge of a truncation may fall on either side of it: such ids have next to equal probabilities.
    `final`: (vocab,) of rows with another decoding than standard, what orders their ids: the final layer's posterior
    (of `near_final` its policy).
    """
    ids, explored = read_record(record)
    if (final is not None) != (explored >= 0) or (record and token not in ids):
        return False
    if final is not None and (final[ids].diff() > tolerance).any():
        return False
    if not record:  # drawn from everything
        return param.top_p == 1 and param.top_k <= 0 and param.min_p == 0
    for policy in policies:
        strays = set(policy.nonzero().flatten().tolist()) ^ set(ids)
        if len(strays) <= 2 and all(policy[stray] <= policy[policy > 0].min() + 2 * tolerance for stray in strays):
            return True
    return False


def _agreeing(found: list, posteriors: Tensor | None, tolerance: float) -> tuple[list, float | None]:
    """The draws among those found that read the oracle's layers, (depth, vocab), or were nearest to it, or none.

    `posteriors` None: no table is compared. The second: the largest error in the table of the nearest; None if none of
    them read its latent layers.
    """
    unread, read = [], []
    for traced, row in found:
        if row not in traced.draws:
            continue
        draw, at = traced.draws[row]
        if posteriors is None or draw.read is None or not draw.read[at]:
            unread.append((draw, at))
            continue
        possible = draw.policy[at] > 0
        expected = posteriors[:, draw.candidates[at][possible]]
        read.append((float((draw.table[at][: len(posteriors), possible] - expected).abs().max()), draw, at))
    nearest = min((error for error, _, _ in read), default=None)
    if nearest is None or (unread and nearest > tolerance):  # other samples of the request, or void steps, read layers
        return unread, None
    return [*unread, *((draw, at) for error, draw, at in read if error <= max(tolerance, nearest))], nearest


def _at_edges(decoding: DecodingParams, tolerance: float) -> list[DecodingParams]:
    """The decoding, and what it is if a token at the edge of DoLa's `relative_top` falls on one side or the other."""
    if decoding.decoding != "dola" or not decoding.dola_relative_top:
        return [decoding]
    edges = [1.0, 1 - tolerance, 1 + tolerance]
    return [replace(decoding, dola_relative_top=min(edge * decoding.dola_relative_top, 1.0)) for edge in edges]


def _policy(
    decoding: DecodingParams, led: Any, control: Sequence[Tensor], step: int, draw: Any, at: int
) -> dict[str, Tensor]:
    """What the token may have been drawn from: (vocab,) distributions by name.

    `control`: those of a decoding other than LED.
    """
    if decoding.decoding in ("top_k_control", *CHOOSING):
        return {f"{decoding.decoding} {i}": policy for i, policy in enumerate(control)}

    def whole(branch: Tensor) -> Tensor:
        return torch.zeros_like(control[0]).scatter_(0, led.candidates[step], branch[step])

    if decoding.draw == "marginal" or decoding.decoding == "led_reference":
        return {"mu": whole(led.mu)}
    return {"q": whole(led.explore)} if draw.explored[at] else {"b": whole(led.exploit)}
