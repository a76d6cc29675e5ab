"""Soft Thinking and latent noise as a loop over a transformers model: what the engine is compared with."""

import copy
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from led_rl.benchmarks.acceptance.models import CLOSE, THINK
from led_rl.benchmarks.acceptance.requests import random_text
from led_rl.decoding import decoding_of
from led_rl.engines.agreement import sampling_params
from led_rl.engines.engine import Sampling
from led_rl.engines.transformers_engine import standard_policy
from led_rl.engines.vllm_plugin.noisy_layers import FIRST_STREAM
from led_rl.sampler.carried import MOST_MIXED
from led_rl.sampler.decodings.soft_thinking import GUMBEL_STREAM
from led_rl.sampler.uniforms import key_of, streams

KINDS = ("soft_thinking", "soft_thinking_gumbel", "latent_noise")


def keys_of(kind: str | None, generator: random.Random, tag: int) -> dict | None:
    """Request keys of a decoding; None: a request that names none."""
    if kind is None:
        return None
    keys = {"led_decoding": kind, "tag": tag}
    if kind.startswith("soft"):
        keys |= {"led_soft_top_k": generator.choice([3, 10, 20]), "led_soft_cold_stop_entropy": 3.0}
        keys |= {"led_soft_cold_stop_length": generator.choice([0, 0, 9])}
    if kind == "latent_noise":
        keys |= {"led_noise_scale": 0.5} | generator.choice([{}, {"led_noise_layers": [1, 6, 11]}])
    return keys


def changing_requests(seed: int, kinds: list[str | None], tokens: int, **settings):
    generator = random.Random(seed)
    shared = random_text(generator, 30)
    lengths = [(30 * (i % 2), generator.randrange(1, 30)) for i in range(len(kinds))]
    prompts = [[*shared[:common], *random_text(generator, rest), THINK] for common, rest in lengths]
    params = [
        sampling_params(
            max_tokens=generator.randrange(tokens // 2, tokens),
            temperature=generator.choice([0.0, 0.7, 1.0]),
            top_k=generator.choice([0, 5, 20]),
            top_p=generator.choice([1.0, 0.9]),
            min_p=generator.choice([0.0, 0.05]),
            logit_bias={CLOSE: 1.0},
            extra_args=keys_of(kind, generator, i),
            **settings,
        )
        for i, kind in enumerate(kinds)
    ]
    return prompts, params


@dataclass
class Replayed:
    """What a request should have done."""

    tokens: list[int | None]  # of each step; None: drawn at random
    logprobs: list[float | None]  # of the token that was taken; None: not compared
    mixed: int = 0  # steps that fed a mix of several tokens
    cold_stops: int = 0
    answers: int = 0  # steps after thinking
    noisy: int = 0  # steps whose forward pass had noise


def truncated(p: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """(vocab,) probabilities after top-k, top-p and min-p, over the whole vocabulary."""
    values, ids = p.sort(descending=True, stable=True)
    if top_k > 0:
        values = torch.where(torch.arange(len(p)) < top_k, values, 0.0)
        values = values / values.sum()
    values = torch.where(values.cumsum(0) - values < top_p, values, 0.0)
    values = values / values.sum()
    values = torch.where(values >= min_p * values[0], values, 0.0)
    return torch.zeros_like(p).scatter(0, ids, values / values.sum())


@contextmanager
def noise_after(model: Any, layers: Any, key: int, position: int, scale: float) -> Iterator[None]:
    """Hooks that disturb the only token of a forward pass."""

    def hook(number: int):
        def disturb(module: Any, args: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            h = states[0, -1].double()
            u, v = (
                streams(torch.tensor([key]), torch.tensor([position]), FIRST_STREAM + 2 * number + i, len(h))[0]
                for i in range(2)
            )
            z = (-2 * (1 - u).log()).sqrt() * (2 * torch.pi * v).cos()
            states[0, -1] = (h + scale * h.square().mean().sqrt() * z).to(states.dtype)
            return output

        return disturb

    handles = [model.model.layers[number].register_forward_hook(hook(number)) for number in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def replay(model: Any, prompt: list[int], taken: list[int], params: Any, key: int) -> Replayed:
    """What the engine should have done for a request, given the tokens that it drew at random.

    Args:
        taken: the tokens that the engine gave.
        params: vLLM's SamplingParams of the request.
        key: of the request's random numbers.
    """
    decoding = decoding_of(params.extra_args)
    table = model.get_input_embeddings().weight
    marks = [token for token in prompt if token in (THINK, CLOSE)]
    thinking = decoding.think_start == "prompt" if not marks else marks[-1] == THINK
    layers = decoding.noise_layers or range(4, 8)
    bias = torch.zeros(len(table))
    for token, value in (params.logit_bias or {}).items():
        bias[token] = value
    done, low, scale = Replayed([], []), 0, 0.0
    embeds, cache = table[prompt][None], None
    for step, token in enumerate(taken):
        position = len(prompt) + step - 1
        with noise_after(model, layers if scale else (), key, position, scale):
            output = model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        done.noisy += scale > 0
        cache = output.past_key_values
        greedy = params.temperature == 0
        logits = (output.logits[0, -1] + bias) / (1.0 if greedy else params.temperature)
        p = logits.double().softmax(-1)
        kept = truncated(p, params.top_k, params.top_p, params.min_p)
        sampling = Sampling(params.temperature, params.top_p, max(params.top_k, 0), params.min_p)
        usual = standard_policy(output.logits[:, -1] + bias, sampling)[0]
        if greedy:
            kept = torch.nn.functional.one_hot(p.argmax(), len(p)).double()
        embeds, scale = table[token][None, None], 0.0
        if not thinking or decoding.decoding in ("standard", "latent_noise"):
            done.tokens.append(int(usual.argmax()) if greedy else None)
            done.logprobs.append(None if greedy else float(usual[token].log()))  # greedy: vLLM tells another one
            done.answers += not thinking
            if thinking and decoding.decoding == "latent_noise":
                scale = decoding.noise_scale * (1 - float(p.max()))
        else:
            weights, ids = kept.topk(decoding.soft_top_k)
            weights = weights / weights.sum()
            if decoding.decoding == "soft_thinking_gumbel":
                u = streams(torch.tensor([key]), torch.tensor([position]), GUMBEL_STREAM, MOST_MIXED)[0, : len(ids)]
                weights = ((weights.log() - (-u.log()).log()) / decoding.gumbel_temperature).softmax(-1)
            entropy = float(-torch.xlogy(p, p).sum())
            low = low + 1 if entropy < decoding.soft_cold_stop_entropy else 0
            chosen, logprob = int(ids[weights.argmax()]), float(weights.max().log())
            if decoding.soft_cold_stop_length and low >= decoding.soft_cold_stop_length:
                chosen, logprob = CLOSE, 0.0
                done.cold_stops += 1
            elif chosen != CLOSE:
                embeds = (weights[:, None] * table[ids].double()).sum(0).to(table.dtype)[None, None]
                done.mixed += int((weights > 1e-6).sum() > 1)
            done.tokens.append(chosen)
            done.logprobs.append(logprob)
        if token == CLOSE:
            low, scale = 0, 0.0
        thinking = token == THINK or (thinking and token != CLOSE)
    return done


NEAR = 1e-4
BEYOND = 1e-3


def reach(single: Replayed, double: Replayed) -> int:
    """Steps that float32 can tell: until the loop in float32 and in float64 part by more than `BEYOND`.

    A thought feeds on its own rounding, and grows it: of some requests these two part by 0.3 after 30 steps.
    """
    for step, (one, other) in enumerate(zip(single.logprobs, double.logprobs, strict=True)):
        parted = one is not None and other is not None and abs(one - other) > BEYOND
        if parted or single.tokens[step] != double.tokens[step]:
            return step
    return len(single.tokens)


def faults(replayed: Replayed, taken: list[int], logprobs: list[float], tolerance: float = 1e-3) -> list[str]:
    """Where a request departs from its replay."""
    found = []
    for step, (token, expected) in enumerate(zip(taken, replayed.tokens, strict=True)):
        if expected is not None and token != expected:
            return [*found, f"step {step}: token {token}, expected {expected}"]
        logprob = replayed.logprobs[step]
        if logprob is not None and not abs(logprobs[step] - logprob) < tolerance:
            found.append(f"step {step}: log-probability {logprobs[step]}, expected {logprob}")
    return found


@contextmanager
def keys_of_requests(slots: Any) -> Iterator[dict[Any, list[int]]]:
    """By tag, a key of random numbers for each time that a request was admitted."""
    keys: dict[Any, list[int]] = {}
    admit = slots.admit

    def recorded(slot: int, extra_args: Mapping[str, Any], markers: Any, tokens: Any, seed: int, *rest: Any) -> None:
        keys.setdefault(extra_args.get("tag"), []).append(key_of(seed))
        admit(slot, extra_args, markers, tokens, seed, *rest)

    slots.admit = recorded
    try:
        yield keys
    finally:
        slots.admit = admit


def check_replay(
    model: Any,
    prompts: Sequence[list[int]],
    params: Sequence[Any],
    outputs: Sequence[Any],
    keys: Mapping[Any, list[int]],
) -> Counter:
    """Asserts that requests did what the loop does, those of LED left out; counts what was seen.

    As far as float32 reaches tokens are equal, and log-probabilities to 1e-4 and ten times its rounding.
    """
    seen: Counter = Counter()
    exact = copy.deepcopy(model).double()
    for prompt, param, output in zip(prompts, params, outputs, strict=True):
        extra_args = param.extra_args or {}
        if extra_args.get("led_decoding") in ("led", "top_k_control"):
            continue
        sampled = output.outputs[0]
        taken = list(sampled.token_ids)
        logprobs = [step[token].logprob for step, token in zip(sampled.logprobs, taken, strict=True)]
        key = keys.get(extra_args.get("tag"), [0])[0]
        single, double = (replay(each, prompt, taken, param, key) for each in (model, exact))
        steps, rounding = reach(single, double), 0.0
        for step in range(steps):
            token, logprob, one = double.tokens[step], double.logprobs[step], single.logprobs[step]
            assert token in (None, taken[step]), (extra_args, step, "another token")
            if logprob is not None and one is not None:
                rounding = max(rounding, abs(logprob - one))
                error = abs(logprobs[step] - logprob)
                assert error < NEAR + 10 * rounding, (extra_args, step, "log-probability", error, rounding)
        seen["steps"] += len(taken)
        seen["compared"] += steps
        seen["mixed"] += double.mixed
        seen["noisy"] += double.noisy
        seen["cold stops"] += double.cold_stops
        seen["answers"] += double.answers
    assert seen["compared"] > 0.8 * seen["steps"], seen
    return seen
