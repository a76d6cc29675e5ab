"""LED over two tensor-parallel ranks."""

from collections.abc import Iterator
from typing import Any

import torch

from led_rl.benchmarks.acceptance.models import CLOSE, THINK
from led_rl.benchmarks.acceptance.state_checks import build, random_model
from led_rl.decoding import DecodingParams
from led_rl.engines.agreement import sampling_params
from led_rl.engines.self_check import Check, tolerance_of, within_share
from led_rl.engines.transformers_engine import TransformersEngine

DECODINGS: list[dict[str, Any]] = [
    {"led": 1, "led_draw": "marginal"},
    {"led": 1, "led_draw": "marginal", "led_depth": 3, "led_k": 4, "led_latent_norm": 1},
    {"led": 1},
    {"led_decoding": "top_k_control", "led_k": 5},
]
TOKENS = 12


def start_tracing(worker: Any) -> None:
    """In a worker: traces what is drawn."""
    from led_rl.engines.vllm_plugin.request_statistics import decoder_of

    decoder: Any = decoder_of(worker.model_runner)
    decoder.trace = []


def traced(worker: Any) -> dict[str, Any]:
    """In a worker: the policy of every row that LED drew, and the totals; and where its part of the vocabulary lies."""
    from led_rl.engines.vllm_plugin.request_statistics import decoder_of

    decoder: Any = decoder_of(worker.model_runner)
    policies = []
    for step in decoder.trace:
        for row, (draw, at) in sorted(step.draws.items()):
            policies.append([row, int(step.positions[row]), draw.candidates[at].tolist(), draw.policy[at].tolist()])
    decoder.trace = None
    shard = worker.model_runner.get_model().lm_head.shard_indices
    vocabulary = [shard.org_vocab_start_index, shard.org_vocab_end_index]
    return {"policies": policies, "totals": decoder.totals(reset=True), "vocabulary": vocabulary}


def tensor_parallel(seconds: float) -> Iterator[Check]:
    """Two worker processes, on two GPUs or a CPU; `seconds` is not used."""
    model = random_model()
    llm = build(model, tensor_parallel_size=2, max_model_len=128).llm
    llm.collective_rpc(start_tracing)
    prompts, params = [], []
    for i in range(24):
        prompts.append([5 + i, 17, 42, 9 + i, [THINK, CLOSE, 7, THINK][i % 4]])
        # without a seed each rank must come to the same by itself
        extra_args = DECODINGS[i // 4 % len(DECODINGS)] | {"led_think_only": int(i % 8 < 4)}
        params.append(sampling_params(max_tokens=TOKENS, seed=None if i % 7 == 0 else 100 + i, extra_args=extra_args))
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    first, second = llm.collective_rpc(traced)
    parts = f"vocabulary {first['vocabulary']} and {second['vocabulary']}"
    shared = first["vocabulary"][1] == second["vocabulary"][0]
    yield Check("parts", "ok" if shared else "FAIL", parts, {"ranks": [first["vocabulary"], second["vocabulary"]]})
    rows = len(first["policies"])
    equal = sum(a == b for a, b in zip(first["policies"], second["policies"], strict=False))
    good = rows > 50 and equal == rows == len(second["policies"]) and first["totals"] == second["totals"]
    text = f"{equal} of {rows} policies of LED rows are the same bits on both ranks, and so are their counts"
    yield Check("ranks", "ok" if good else "FAIL", text, {"rows": rows, "equal": equal})
    yield marginal_logprobs(TransformersEngine(model), prompts, params, outputs)


def marginal_logprobs(reference: TransformersEngine, prompts: list, params: list, outputs: list) -> Check:
    """Log-probabilities of the tokens that LED drew from mu, against transformers."""
    tolerance, errors = tolerance_of("float32", torch.cuda.is_available()), []
    for prompt, param, output in zip(prompts, params, outputs, strict=True):
        decoding = DecodingParams.from_extra_args(param.extra_args)
        if decoding.decoding != "led" or decoding.draw != "marginal":
            continue
        sample = output.outputs[0]
        tokens = list(sample.token_ids)
        led, _ = reference.distributions(prompt + tokens[:-1], decoding, param.temperature)
        thinking = reference.markers(decoding).thinking_mask(prompt, tokens, decoding.think_start == "prompt")
        for step, token in enumerate(tokens):
            if thinking[step] or not decoding.think_only:
                row = len(prompt) - 1 + step
                mu = float(led.mu[row][led.candidates[row] == token].sum())
                errors.append(abs(float(torch.tensor(mu).log()) - sample.logprobs[step][token].logprob))
    error = within_share(errors, tolerance.share)
    text = f"{len(errors)} log-probabilities agree to {error:.1e} (allowed {tolerance.logprob:g})"
    figures = {"logprobs": len(errors), "logprob_error": error}
    return Check("transformers", "ok" if len(errors) > 50 and error <= tolerance.logprob else "FAIL", text, figures)
