"""Random requests of every kind under pressure: chunked prefill, preemption, prefix caching, joining and leaving."""

import itertools
import random

from agreement import CLOSE, THINK, check_agreement, generate_traced, kept, random_text, sampling_params

from led_rl.decoding import AGGREGATIONS, DRAWS
from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.engines.vllm_engine import VLLMEngine

MAX_LENGTH = 256


def tight_engine(model, **engine_args):
    """Prefills in chunks of at most 48 tokens; has room for a few sequences only: some are preempted and resumed."""
    engine = VLLMEngine(
        model,
        depth=8,
        max_model_len=MAX_LENGTH,
        max_num_seqs=16,
        max_num_batched_tokens=48,
        block_size=32,
        num_gpu_blocks_override=18,
        baselines=("dola_low", "dola_high", "dola=7+1+4", "near_final"),
        enable_prefix_caching=True,
        disable_log_stats=False,
        **engine_args,
    )
    return kept(engine)


def preemptions(engine) -> int:
    metrics = engine.llm.get_metrics()
    return sum(metric.value for metric in metrics if metric.name == "vllm:num_preemptions")


MARKER_PAIRS = [
    {},
    {},
    {"led_start_marker": [THINK, 50], "led_end_marker": [50, CLOSE]},
    {"led_start_marker": [50, 51], "led_end_marker": [51, 50, 50]},
    {"led_end_marker": "ab"},
]


def random_decoding(generator: random.Random) -> dict | None:
    """`led*` keys that this engine accepts; None: the request names no decoding."""
    choice, some = generator.choice, generator.random
    kind = choice(["led", "led", "led", "led_reference", "top_k_control", "dola", "near_final", None])
    if kind is None:
        return None
    keys = {"led_decoding": kind, "led_k": choice([1, 2, 8, 8, 20, 128]), "led_think_only": some() < 0.8}
    keys |= {"led_think_start": choice(["prompt", "marker"])} | choice(MARKER_PAIRS)
    if kind == "top_k_control":
        return keys
    if kind == "dola":
        keys |= {"led_dola_layers": choice(["low", "high", [7, 1, 4]]), "led_dola_relative_top": choice([0, 0.1, 0.5])}
        return keys | {"led_latent_norm": some() < 0.3}
    if kind == "near_final":
        return keys | {"led_near_final_layers": choice([1, 4, 10])}
    if some() < 0.3:
        keys["led_latent_layers"] = generator.sample(range(5, 12), generator.randrange(1, 8))
    else:
        keys["led_depth"] = generator.randrange(1, 9)
    keys |= {"led_latent_norm": some() < 0.3, "led_exploit": some() < 0.7, "led_draw": choice(DRAWS)}
    return keys | {"led_aggregation": choice(AGGREGATIONS)}


def random_prompt(generator: random.Random, shared: list[int]) -> list[int]:
    """Text with think markers strewn in, so that chunks of prefill end on them, and within them, now and then."""
    text = random_text(generator, generator.randrange(1, 80))
    marked = [generator.choice([THINK, CLOSE, 50, 51]) if generator.random() < 0.2 else token for token in text]
    return (shared if generator.random() < 0.6 else []) + marked


def random_params(generator: random.Random, tag: int):
    choice, some = generator.choice, generator.random
    decoding = random_decoding(generator)
    temperature = choice([0.0, 0.6, 0.8, 1.0, 1.4, 2.0])
    settings = {
        "temperature": temperature,
        "n": choice([1, 1, 1, 1, 2, 3]) if temperature else 1,
        "max_tokens": generator.randrange(1, 40),
        "ignore_eos": some() < 0.5,
        "top_p": choice([1.0, 0.9, 0.5]),
        "top_k": choice([0, 0, 3, 20]),
        "min_p": choice([0.0, 0.0, 0.1]),
        "logit_bias": {THINK: 5.0, CLOSE: 5.0, 50: 4.0, 51: 4.0} if some() < 0.6 else None,
        "extra_args": None if decoding is None else decoding | {"tag": tag},
    }
    if some() < 0.3:
        settings |= {"presence_penalty": choice([-0.5, 1.0]), "frequency_penalty": choice([0.0, 0.7])}
    if some() < 0.2:
        settings["repetition_penalty"] = choice([0.8, 1.3])
    if some() < 0.2:
        settings["stop_token_ids"] = random_text(generator, 10)
    if some() < 0.3:
        settings["min_tokens"] = generator.randrange(settings["max_tokens"] + 1)
    if some() < 0.1:
        settings["allowed_token_ids"] = [THINK, CLOSE, *range(45, 60)]
    if some() < 0.1:
        settings["bad_words"] = ["a", "bc"]
    return sampling_params(**settings)


def random_requests(seed: int, count: int):
    """Prompts, parameters, and the engine's step at which each joins: in waves, and alone."""
    generator = random.Random(seed)
    shared = [*random_prompt(generator, []), THINK, *random_text(generator, 40)]
    prompts = [random_prompt(generator, shared) for _ in range(count)]
    params = [random_params(generator, i) for i in range(count)]
    arrivals = list(itertools.accumulate(generator.choice([0, 0, 0, 0, 1, 2, 20]) for _ in range(count)))
    return prompts, params, arrivals


def test_random_requests_agree_with_transformers_at_every_step_under_pressure(tiny_model):
    """No seeds: vLLM on CPU crashes on a seeded request whose prefill is cut into chunks."""
    engine = tight_engine(tiny_model)
    prompts, params, arrivals = random_requests(7, 320)
    outputs, traced = generate_traced(engine.llm, prompts, params, arrivals)
    assert preemptions(engine) > 10, "the engine had room for all; the test did not test preemption"
    seen = check_agreement(TransformersEngine(tiny_model), prompts, params, outputs, traced)
    assert seen["log-probabilities"] > 5000
    assert seen["tables"] > 2000
    assert seen["phase changes"] > 200
    assert min(seen[f"drawn by {name}"] for name in ("led", "led_reference", "top_k_control")) > 200
    assert min(seen[f"drawn by {name}"] for name in ("dola", "near_final")) > 100


def test_random_requests_agree_under_async_scheduling(tiny_model, monkeypatch):
    """The scheduler plans a step before the tokens of the last one are known.

    vLLM switches this off on CPU, where nothing is gained, but its CPU runner can do it.
    """
    from vllm.platforms.cpu import CpuPlatform

    update = CpuPlatform.check_and_update_config.__func__

    def keep_async(cls, vllm_config):
        update(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", classmethod(keep_async))
    engine = tight_engine(tiny_model, async_scheduling=True)
    core = engine.llm.llm_engine.engine_core.engine_core
    assert type(core.scheduler).__name__ == "AsyncScheduler"
    assert core.batch_queue is not None
    prompts, params, arrivals = random_requests(8, 120)
    for param in params:
        param.min_tokens = 0  # vLLM lifts its mask a step late in this mode
    outputs, traced = generate_traced(engine.llm, prompts, params, arrivals)
    assert preemptions(engine) > 5
    seen = check_agreement(TransformersEngine(tiny_model), prompts, params, outputs, traced)
    assert seen["tables"] > 500
    assert seen["phase changes"] > 8
