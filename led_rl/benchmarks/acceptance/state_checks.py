"""What must stay the same while batches mix, requests are preempted, weights change, and the engine sleeps."""

from collections.abc import Iterator
from typing import Any

import torch

from led_rl.benchmarks.acceptance.engine_checks import DEPTH, agreement, engine_arguments, random_model
from led_rl.benchmarks.acceptance.requests import BASELINES, Requests, pressing_requests, seeded_requests
from led_rl.engines.agreement import compare, generate_traced
from led_rl.engines.self_check import Check, judge, tolerance_of
from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.engines.vllm_engine import VLLMEngine, model_runner, request_decoder

Sampled = tuple[list[int], list[float]]  # tokens of a request, and their log-probabilities
SIZES: dict[str, Any] = {"max_num_seqs": 64, "max_num_batched_tokens": 8192}


def build(model: str, depth: int = DEPTH, eager: bool | None = None, **changes: Any) -> VLLMEngine:
    """A float32 engine; `eager` defaults to vLLM's own choice (compiled) on a GPU and to eager mode on a CPU."""
    eager = not torch.cuda.is_available() if eager is None else eager
    baselines = BASELINES if depth else ()
    return VLLMEngine(model, depth, baselines=baselines, **engine_arguments(eager, "float32") | SIZES | changes)


def sampled(engine: VLLMEngine, requests: Requests) -> list[Sampled]:
    """What each request gets, from an empty prefix cache, so that every run prefills alike."""
    prompts, params = requests
    engine.llm.reset_prefix_cache()
    outputs = engine.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    samples = [output.outputs[0] for output in outputs]
    return [
        (list(s.token_ids), [step[token].logprob for step, token in zip(s.logprobs, s.token_ids, strict=True)])
        for s in samples
    ]


def same(name: str, first: list[Sampled], second: list[Sampled], least: float = 1.0) -> Check:
    """Whether requests got the same tokens with the same log-probabilities, bit by bit, a share `least` of them."""
    tokens = sum(a[0] == b[0] for a, b in zip(first, second, strict=True))
    equal = sum(a == b for a, b in zip(first, second, strict=True))
    apart = max(
        (
            abs(x - y)
            for a, b in zip(first, second, strict=True)
            if a[0] == b[0]
            for x, y in zip(a[1], b[1], strict=True)
        ),
        default=float("nan"),
    )
    text = (
        f"{equal} of {len(first)} requests bit by bit, {tokens} the same tokens; log-probabilities within {apart:.1e}"
    )
    figures = {"requests": len(first), "bitwise": equal, "same_tokens": tokens, "largest_difference": apart}
    return Check(name, "ok" if equal >= least * len(first) else "FAIL", text, figures)


def mixed_batches(seconds: float) -> Iterator[Check]:
    """Standard rows of a batch in which every second row is LED's or its control's; `seconds` is not used.

    They are compared with the same batch, all standard, on the same engine; and on an engine that was built without
    LED, eager, as compiled ones are other programs whose sums may be in another order.
    """
    model = random_model()
    plain = build(model, depth=0, eager=True)  # first, before LED's sampler is installed in this process
    without = sampled(plain, seeded_requests(32, mixed=False))[::2]
    engines = {"eager": build(model, eager=True)}
    if torch.cuda.is_available():
        engines["compiled"] = build(model, eager=False)
    for name, engine in engines.items():
        mixed = sampled(engine, seeded_requests(32))
        alone = sampled(engine, seeded_requests(32, mixed=False))
        yield same(f"{name}, alone", mixed[::2], alone[::2])
        if name == "eager":
            yield same("eager, without LED", mixed[::2], without)
        different = sum(a[0] != b[0] for a, b in zip(mixed[1::2], alone[1::2], strict=True))
        text = f"{different} of {len(mixed) // 2} LED rows drew other tokens than standard decoding does"
        yield Check(f"{name}, LED rows", "ok" if different else "FAIL", text, {"different": different})


def preemption(seconds: float) -> Iterator[Check]:
    """Prefill in chunks of 48 tokens and room for a few sequences only; `seconds` is not used."""
    model = random_model()
    tight: dict[str, Any] = {"max_model_len": 256, "max_num_seqs": 16, "max_num_batched_tokens": 48, "block_size": 32}
    engine = build(model, **tight, num_gpu_blocks_override=14, enable_prefix_caching=True, disable_log_stats=False)
    requests = pressing_requests(24)
    outputs, traced = generate_traced(engine.llm, *requests)
    metrics = {metric.name: metric for metric in engine.llm.get_metrics()}
    count = int(metrics["vllm:num_preemptions"].value)
    yield Check(
        "preemptions", "ok" if count else "FAIL", f"{count}, of {len(outputs)} requests", {"preemptions": count}
    )
    tolerance = tolerance_of("float32", torch.cuda.is_available())
    found = compare(TransformersEngine(model), *requests, outputs, traced, tolerance=tolerance.table)
    yield judge(found, tolerance)


def weights(seconds: float) -> Iterator[Check]:
    """A trainer's weights, parameter by parameter as TRL hands them over; `seconds` is not used."""
    model, other = random_model(), random_model(seed=1)
    engine, reference = build(model), TransformersEngine(other)
    first = sampled(engine, seeded_requests(32))
    live = model_runner(engine.llm).get_model()
    for name, weight in reference.model.named_parameters():
        live.load_weights([(name, weight.data.to(next(live.parameters()).device))])
    engine.llm.reset_prefix_cache()
    yield agreement(engine, reference, 52)
    synced = sampled(engine, seeded_requests(32))
    fresh = build(other)
    theirs = dict(model_runner(fresh.llm).get_model().named_parameters())
    equal = sum(torch.equal(parameter, theirs[name]) for name, parameter in live.named_parameters())
    text = f"{equal} of {len(theirs)} parameters are those of an engine started from the other checkpoint, bit by bit"
    yield Check("parameters", "ok" if equal == len(theirs) else "FAIL", text, {"equal": equal, "of": len(theirs)})
    yield same("a fresh engine", synced, sampled(fresh, seeded_requests(32)))
    engine.load_weights(model)
    yield same("and back", first, sampled(engine, seeded_requests(32)))


def sleep(seconds: float) -> Iterator[Check]:
    """As TRL does between rollouts; `seconds` is not used.

    Without a GPU there is no sleep mode: what a sleep of level 2 does to memory is played through.
    """
    model = random_model()
    gpu = torch.cuda.is_available()
    engine = build(model, **({"enable_sleep_mode": True} if gpu else {}))
    reference = TransformersEngine(model)
    before = sampled(engine, seeded_requests(32))
    for level in (1, 2) if gpu else (2,):
        if gpu:
            yield sleep_and_wake(engine, level)
        else:
            yield play_sleep(engine)
        # the same kernels on the same numbers, but a batch may be cut differently
        yield same(f"level {level}, tokens", before, sampled(engine, seeded_requests(32)), least=0.9)
        yield agreement(engine, reference, 52)


def sleep_and_wake(engine: VLLMEngine, level: int) -> Check:
    """Sleeps and wakes; after level 2 the weights are loaded again."""
    free = torch.cuda.mem_get_info()[0]
    engine.llm.sleep(level=level)
    freed = torch.cuda.mem_get_info()[0] - free
    if level == 2:
        engine.llm.wake_up(tags=["weights"])
        engine.llm.collective_rpc("reload_weights")
        engine.llm.wake_up(tags=["kv_cache"])
    else:
        engine.llm.wake_up()
    text = f"{freed / 2**20:,.0f} MiB freed"
    return Check(f"level {level}", "ok" if freed > 0 else "FAIL", text, {"freed_bytes": freed})


@torch.no_grad()
def play_sleep(engine: VLLMEngine) -> Check:
    """As around a sleep of level 2: weights and what LED holds are overwritten, buffers restored, weights reloaded."""
    model, decoder = model_runner(engine.llm).get_model(), request_decoder(engine.llm)
    assert decoder is not None
    buffers = dict(model.named_buffers())
    saved = {name: buffer.clone() for name, buffer in buffers.items()}
    lost = [model.led_states.rows, *model.parameters()]
    for tensor in lost:
        tensor.fill_(77)
    for name, buffer in buffers.items():
        buffer.copy_(saved[name])
    restored = int((model.led_states.rows == 77).sum()) == 0
    engine.llm.collective_rpc("reload_weights")
    text = f"played through on a CPU: {len(lost)} tensors overwritten, {len(saved)} buffers restored, weights reloaded"
    return Check("level 2", "ok" if restored else "FAIL", text, {"overwritten": len(lost), "buffers": len(saved)})
