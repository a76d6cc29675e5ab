"""Whether what an engine did, step by step, is what transformers says it should have done."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any

import torch

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.transformers_engine import TransformersEngine, standard_policy
from led_rl.engines.vllm_engine import request_decoder
from led_rl.led import led_distribution
from led_rl.sampler.support import read_record

THINK, CLOSE = 3, 4  # of conftest.character_tokenizer
TOLERANCE = 1e-5


_ENGINES = []


def kept(engine: Any) -> Any:
    """The engine, alive to the end: one that goes takes the parallel groups of all engines in its process with it."""
    _ENGINES.append(engine)
    return engine


def random_text(generator: random.Random, length: int) -> list[int]:
    return [generator.randrange(5, 105) for _ in range(length)]


def sampling_params(**changes):
    from vllm import SamplingParams

    settings = {"max_tokens": 24, "temperature": 0.8, "logprobs": 0, "ignore_eos": True, "detokenize": False}
    return SamplingParams(**(settings | changes))


def generate_traced(llm: Any, prompts: list[list[int]], params: list[Any], arrivals: list[int] | None = None):
    """Outputs, and the traced rows by (tag, position): more than one if a step was computed again, or with n > 1.

    Args:
        arrivals: the engine's step before which each request joins, ascending; None: all join at once.
    """
    from vllm.sampling_params import RequestOutputKind

    decoder = request_decoder(llm)
    decoder.trace = []
    engine, outputs, added = llm.llm_engine, {}, 0
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
    for step in decoder.trace:
        for row, extra_args in enumerate(step.extra_args):
            if extra_args is not None:
                rows.setdefault((extra_args["tag"], int(step.positions[row])), []).append((step, row))
    decoder.trace = None
    return [outputs[i] for i in range(len(prompts))], rows


Grammar = Callable[[list[int]], Collection[int]]  # the tokens that may follow what has been generated


def edited(
    logits: torch.Tensor, prompt: list[int], tokens: list[int], params: Any, grammar: Grammar | None = None
) -> torch.Tensor:
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
def check_agreement(
    reference: TransformersEngine,
    prompts: list[list[int]],
    params: list[Any],
    outputs: list[Any],
    traced: dict,
    grammars: Mapping[int, Grammar] | None = None,
) -> Counter:
    """Asserts that phase, table and log-probability of every generated token are the oracle's; counts what it saw.

    `grammars`: by number of the request, what its structured output allows.
    """
    from vllm.tokenizers.hf import get_cached_tokenizer

    seen: Counter = Counter()
    markers = cache(reference.markers)
    for i, (prompt, param, output) in enumerate(zip(prompts, params, outputs, strict=True)):
        decoding = DecodingParams.from_extra_args(param.extra_args)
        # a product's logarithm has the errors of all its layers
        tolerance = TOLERANCE * (8 if decoding.aggregation == "product" else 1)
        param = param.clone()  # to know of bad words and end tokens what the engine's copy knows
        param.update_from_tokenizer(get_cached_tokenizer(reference.tokenizer))
        param.update_from_generation_config({}, reference.tokenizer.eos_token_id)
        for sample in output.outputs:
            tokens = list(sample.token_ids)
            thinking = markers(decoding).thinking_mask(prompt, tokens, decoding.think_start == "prompt")
            seen["phase changes"] += sum(a != b for a, b in itertools.pairwise(thinking))
            hidden = reference.model(torch.tensor([prompt + tokens[:-1]]), output_hidden_states=True).hidden_states
            logits = reference.layer_logits([state[0, len(prompt) - 1 :] for state in hidden], decoding)
            logits[:, 0] = edited(logits[:, 0], prompt, tokens, param, (grammars or {}).get(i))
            led = led_distribution(
                logits, decoding.k, param.temperature, exploit=decoding.exploit, aggregation=decoding.aggregation
            )
            posteriors = (logits / (param.temperature or 1.0)).softmax(-1)
            settings = param.temperature, param.top_p, max(param.top_k, 0), param.min_p
            standard = standard_policy(logits[:, 0], Sampling(*settings))
            control = standard_policy(logits[:, 0], Sampling(param.temperature, top_k=decoding.k))
            for step, token in enumerate(tokens):
                by_led = not decoding.is_standard and (thinking[step] or not decoding.think_only)
                logprob = sample.logprobs[step][token].logprob if sample.logprobs else None
                found = traced.get((i, len(prompt) - 1 + step), [])
                assert decoding.is_standard or found, f"request {i}: token {step} was not followed"
                expected = {"standard": standard[step]}
                if by_led:
                    draws = _agreeing(found, posteriors[step])
                    assert draws, f"request {i}, token {step}: no step of the engine agrees with transformers"
                    seen["tables"] += any(draw.read is not None and bool(draw.read[at]) for draw, at in draws)
                    expected = {}
                    for draw, at in draws:
                        expected |= _policy(decoding, led, control, step, draw, at)
                    seen[f"drawn by {decoding.decoding}"] += 1
                else:
                    usual = [not at_step.active[row] for at_step, row in found]
                    assert decoding.is_standard or any(usual), (i, step, "drawn by LED, but not thinking")
                    if not param.temperature:  # vLLM reports log-probabilities at temperature 1
                        assert token == int(logits[step, 0].argmax()), (i, step)
                        continue
                if sample.sampling_mask is not None:
                    record = sample.sampling_mask.token_ids[step]
                    final = posteriors[step, 0] if by_led else None
                    assert _supports(record, expected.values(), token, final, param), (i, step, record)
                    seen["supports"] += 1
                    seen["truncated supports"] += not by_led and bool(record)
                if logprob is not None:
                    agrees = [abs(policy[token].log().item() - logprob) < tolerance for policy in expected.values()]
                    assert any(agrees), (i, step, logprob, {k: p[token].log().item() for k, p in expected.items()})
                    seen["log-probabilities"] += 1
    return seen


def _supports(
    record: list[int], policies: Iterable[torch.Tensor], token: int, final: torch.Tensor | None, param: Any
) -> bool:
    """Whether a token's record names the ids of one of the policies that it may have been drawn from.

    An id at the edge of a truncation may fall on either side of it: such ids have next to equal probabilities.
    `final`: (vocab,) final layer's posterior of rows with another decoding than standard, whose ids it orders.
    """
    ids, explored = read_record(record)
    if (final is not None) != (explored >= 0) or (record and token not in ids):
        return False
    if final is not None and (final[ids].diff() > TOLERANCE).any():
        return False
    if not record:  # drawn from everything
        return param.top_p == 1 and param.top_k <= 0 and param.min_p == 0
    for policy in policies:
        strays = set(policy.nonzero().flatten().tolist()) ^ set(ids)
        if len(strays) <= 2 and all(policy[stray] <= policy[policy > 0].min() + 2 * TOLERANCE for stray in strays):
            return True
    return False


def _agreeing(found: list, posteriors: torch.Tensor) -> list:
    """The draws among those found that read the oracle's layers, (depth, vocab), or none."""
    agreeing = []
    for traced, row in found:
        if row not in traced.draws:
            continue
        draw, at = traced.draws[row]
        possible = draw.policy[at] > 0
        if draw.read is not None and draw.read[at]:
            expected = posteriors[:, draw.candidates[at][possible]]
            if not torch.allclose(draw.table[at][: len(posteriors), possible], expected, atol=TOLERANCE, rtol=0):
                continue
        agreeing.append((draw, at))
    return agreeing


def _policy(decoding: DecodingParams, led: Any, control: torch.Tensor, step: int, draw: Any, at: int) -> dict:
    """What the token may have been drawn from: (vocab,) distributions by name."""
    if decoding.decoding == "top_k_control":
        return {"control": control[step]}

    def whole(branch: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(control[step]).scatter_(0, led.candidates[step], branch[step])

    if decoding.draw == "marginal" or decoding.decoding == "led_reference":
        return {"mu": whole(led.mu)}
    return {"q": whole(led.explore)} if draw.explored[at] else {"b": whole(led.exploit)}
