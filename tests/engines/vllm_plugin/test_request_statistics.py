"""What each request's output says of its decoding, against the traced rows and the engine's totals."""

import random

import pytest
import torch
from agreement import CLOSE, THINK, generate_traced, kept, random_text, sampling_params

from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.engines.vllm_engine import VLLMEngine, request_decoder
from led_rl.engines.vllm_plugin.request_statistics import KEY, Batch, Followed, request_statistics
from led_rl.sampler.columns import STATISTICS

OURS = [
    {"led": 1},
    {"led": 1, "led_draw": "marginal", "led_depth": 3},
    {"led_decoding": "top_k_control", "led_k": 5},
    {"led_decoding": "led_reference", "led_depth": 4},
]


def statistics_of(output) -> dict | None:
    return (output.kv_transfer_params or {}).get(KEY)


DEPTHS = 11  # none, and each captured layer of the shared engine: LED's 7, and the 3 that DoLa reads besides


def expected_statistics(draws: list) -> dict:
    """From the traced draws of a request."""
    sums = dict.fromkeys(STATISTICS, 0.0)
    depths = [0] * DEPTHS
    for draw, at in draws:
        policy = draw.policy[at].double()
        sums["rows"] += 1
        sums["explored"] += float(draw.explored[at])
        sums["confidence"] += float(draw.confidence[at])
        sums["entropy_mu"] += float(-(policy * policy.clamp_min(1e-300).log()).sum())
        if draw.read is not None and bool(draw.read[at]):
            depths[int(draw.depth[at])] += 1
    return request_statistics([*sums.values(), *depths])


def mixed_requests(count: int):
    generator = random.Random(5)
    prompts, params = [], []
    for i in range(count):
        marks = [[THINK], [], [THINK, 50, CLOSE], [THINK]][i % 4]
        prompts.append(random_text(generator, generator.randrange(3, 40)) + marks)
        extra_args = [*OURS, None][i % 5]
        params.append(
            sampling_params(
                n=1 + i % 3,
                max_tokens=generator.randrange(1, 24),
                logit_bias={THINK: 3.0, CLOSE: 4.0} if i % 2 else None,
                extra_args=extra_args and extra_args | {"tag": i},
            )
        )
    return prompts, params


def test_outputs_hold_the_statistics_of_their_traced_rows_and_add_up_to_the_engine_s(engine):
    decoder = request_decoder(engine.llm)
    decoder.totals(reset=True)
    prompts, params = mixed_requests(40)
    outputs, rows = generate_traced(engine.llm, prompts, params)
    totals = decoder.totals()
    for i, (output, param) in enumerate(zip(outputs, params, strict=True)):
        if param.extra_args is None:
            assert statistics_of(output) is None
            continue
        found = [pair for (tag, _), pairs in rows.items() if tag == i for pair in pairs]
        expected = expected_statistics([step.draws[row] for step, row in found if row in step.draws])
        statistics = statistics_of(output)
        assert statistics["depth"] == expected.pop("depth"), (i, param.n)
        for name, value in expected.items():
            assert statistics[name] == (value if value is None else pytest.approx(value, rel=1e-5)), (i, param.n, name)
    told = [statistics for output in outputs if (statistics := statistics_of(output)) is not None]
    assert any(s["rows"] == 0 for s in told)
    for name in ("rows", "explored", "read"):
        assert totals[name] == pytest.approx(sum(s[name] for s in told))
    for name in ("confidence", "entropy_mu"):
        assert totals[name] == pytest.approx(sum(s[name] * s["rows"] for s in told if s["rows"]))
    depths = [sum(column) for column in zip(*(s["depth"] for s in told), strict=True)]
    assert depths == [totals[f"depth_{j}"] for j in range(DEPTHS)]


def test_a_request_that_a_stop_string_ends_has_its_statistics(engine):
    params = sampling_params(
        max_tokens=200, stop=["a", "e", "i", "o"], detokenize=True, ignore_eos=False, extra_args={"led": 1}
    )
    outputs = engine.llm.generate([{"prompt_token_ids": [5 + i, THINK]} for i in range(8)], params, use_tqdm=False)
    stopped = [output for output in outputs if isinstance(output.outputs[0].stop_reason, str)]
    assert stopped
    for output in stopped:
        assert statistics_of(output)["rows"] == thinking_tokens(engine, output.outputs[0].token_ids)


def thinking_tokens(engine, tokens, start: bool = True) -> int:
    thinking = start
    count = 0
    for token in tokens:
        count += thinking
        thinking = {THINK: True, CLOSE: False}.get(token, thinking)
    return count


def test_completions_carry_them(engine):
    sampling = Sampling(max_tokens=9, n=2)
    for decoding, rows in ((DecodingParams("led"), 9), (DecodingParams(), None)):
        for completion in engine.generate([[5, 6, THINK]], decoding, sampling)[0]:
            if rows is None:
                assert completion.statistics is None
            else:
                assert completion.statistics["rows"] == sum(completion.thinking)


def test_sums_go_on_when_a_request_is_admitted_anew():
    """Sums restart at every admission; which one a row belongs to shows in the tokens known then, or in a fall."""
    steps = [(10, 1), (10, 2), (12, 1), (12, 1), (14, 0), (14, 0), (15, 1), (15, 1), (15, 3), (15, 1)]
    followed = None
    seen = []
    for known, rows in steps:
        step = torch.tensor([[0.0, 0.0], [float(known), float(rows)]]).numpy()  # its row is the second
        batch = Batch(0, {"other": 0, "ours": 1}, step, streams=False)
        if followed is None:
            followed = Followed(batch, 1)
        followed.follow(batch, 1)
        seen.append(float(followed.sums()[0]))
    assert seen == [1, 2, 3, 3, 3, 3, 4, 4, 6, 7]


def test_preempted_requests_count_every_token_once(tiny_model):
    tight = kept(
        VLLMEngine(
            tiny_model,
            depth=8,
            max_model_len=256,
            max_num_seqs=16,
            max_num_batched_tokens=48,
            block_size=32,
            num_gpu_blocks_override=18,
            disable_log_stats=False,
        )
    )
    generator = random.Random(7)
    prompts = [[*random_text(generator, generator.randrange(3, 90)), THINK] for _ in range(60)]
    params = [
        sampling_params(
            n=2 if i % 10 == 0 else 1,
            max_tokens=generator.randrange(4, 70),
            logit_bias={THINK: 2.0, CLOSE: 2.5},
            extra_args={"led": 1, "tag": i},
        )
        for i in range(60)
    ]
    outputs, _ = generate_traced(tight.llm, prompts, params)
    metrics = tight.llm.get_metrics()
    assert sum(m.value for m in metrics if m.name == "vllm:num_preemptions") > 5
    for output in outputs:
        expected = sum(thinking_tokens(tight, sample.token_ids) for sample in output.outputs)
        assert statistics_of(output)["rows"] == expected
    scheduler = tight.llm.llm_engine.engine_core.engine_core.scheduler
    assert not scheduler.requests  # the sums went with them
