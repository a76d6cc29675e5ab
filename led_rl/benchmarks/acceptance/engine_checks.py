"""One engine of one kind: latent tables and log-probabilities against transformers, and whether tokens follow mu."""

import random
import tempfile
from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any

import torch

from led_rl.benchmarks.acceptance.laws import binomial_z, chi_square_p
from led_rl.benchmarks.acceptance.models import THINK, WIDE, save_tiny_model
from led_rl.benchmarks.acceptance.requests import BASELINES, mixed_requests, random_text
from led_rl.decoding import DecodingParams
from led_rl.engines.agreement import compare, generate_traced, sampling_params
from led_rl.engines.installation import check_device, check_environment, check_plugin, check_versions
from led_rl.engines.self_check import Check, check_runner, judge, tolerance_of
from led_rl.engines.transformers_engine import TransformersEngine
from led_rl.engines.vllm_engine import VLLMEngine, model_runner

DEPTH = 8
TEMPERATURE = 0.8
LIKELY, UNLIKELY = 1e-4, 1e-6  # p-values above which tokens may follow a distribution, and below which they do not
FEW_SIGMAS = 4.0


def installation(seconds: float) -> Iterator[Check]:
    """The checks of `led-rl doctor` that need no model; `seconds` is not used."""
    yield from check_versions()
    yield check_plugin()
    yield from check_environment()
    yield check_device()
    yield check_runner()


def random_model(**changes: Any) -> str:
    """A folder with a new checkpoint (models.py), where temporary files go."""
    return str(save_tiny_model(tempfile.mkdtemp(prefix="model-"), **changes))


def engine_arguments(eager: bool, dtype: str) -> dict[str, Any]:
    """Arguments of every engine of the acceptance; they use so little of a GPU that several engines fit on it."""
    arguments: dict[str, Any] = {"dtype": dtype, "enforce_eager": eager, "max_model_len": 512}
    if torch.cuda.is_available():
        arguments |= {"gpu_memory_utilization": 0.05, "kv_cache_memory_bytes": 1 << 30}
    return arguments


def engine(seconds: float, runner: int, eager: bool, dtype: str, wide: bool = False) -> Iterator[Check]:
    """Everything that can be asked of one engine; `seconds` is not used."""
    changes: dict[str, Any] = WIDE if wide else {}
    folder = random_model(dtype=torch.bfloat16 if wide else torch.float32, **changes)
    # room for every prompt at once: vLLM on CPU crashes on a seeded request whose prefill is cut into chunks
    sizes: dict[str, Any] = {"max_num_seqs": 64, "max_num_batched_tokens": 8192, "baselines": BASELINES}
    made = VLLMEngine(folder, DEPTH, **engine_arguments(eager, dtype), **sizes)
    yield mode(made, runner, eager)
    reference = TransformersEngine(folder)
    yield agreement(made, reference, 16 if wide else 104)
    prompt = uncertain_prompt(reference, tries=12 if wide else 200)
    yield from follows_mu(made, reference, prompt, exact=dtype == "float32", draws=2000 if wide else 4000)
    yield from entropies(made)


def mode(made: VLLMEngine, runner: int, eager: bool) -> Check:
    """Whether the engine is what was asked for."""
    config = made.llm.llm_engine.vllm_config
    compilation = config.compilation_config
    graphs, compiled = compilation.cudagraph_mode.name, compilation.mode.name
    figures = {
        "runner": 2 if config.use_v2_model_runner else 1,
        "cudagraph_mode": graphs,
        "compilation_mode": compiled,
        "async_scheduling": config.scheduler_config.async_scheduling,
        "latent_layers": list(model_runner(made.llm).get_model().led_layers),
    }
    good = figures["runner"] == runner and (compiled == "NONE") == eager
    if torch.cuda.is_available():
        good = good and (graphs == "NONE") == eager
    text = f"runner V{figures['runner']}, {compiled}, {graphs}, asynchronous scheduling {figures['async_scheduling']}"
    return Check("mode", "ok" if good else "FAIL", text, figures)


def agreement(made: VLLMEngine, reference: TransformersEngine, count: int) -> Check:
    """Requests of every kind in one batch against transformers."""
    layers = reference.model.config.num_hidden_layers
    prompts, params = mixed_requests(count, layers)
    outputs, traced = generate_traced(made.llm, prompts, params)
    dtype = str(made.llm.llm_engine.vllm_config.model_config.dtype)
    tolerance = tolerance_of(dtype, torch.cuda.is_available())
    return judge(compare(reference, prompts, params, outputs, traced, tolerance=tolerance.table), tolerance)


def uncertain_prompt(reference: TransformersEngine, temperature: float = TEMPERATURE, tries: int = 200) -> list[int]:
    """A thinking prompt after which LED explores and differs from the final layer (found, not made up)."""
    generator = random.Random(0)
    prompts = [[*random_text(generator, 8), THINK] for _ in range(tries)]
    decoding = DecodingParams("led", DEPTH, draw="marginal")

    def distance(prompt: list[int]) -> float:
        led = reference.distributions(prompt, decoding, temperature)[0]
        return float((led.mu[-1] - led.exploit[-1]).abs().sum())

    return max(prompts, key=distance)


def follows_mu(
    made: VLLMEngine, reference: TransformersEngine, prompt: list[int], exact: bool, draws: int
) -> Iterator[Check]:
    """Chi-square tests of many next tokens after one prompt.

    They must follow what the engine says it drew them from, whatever its precision; in float32 also mu of transformers;
    and not the final layer alone. In lower precision the engine's mu is another one by its rounding: its distance is
    told, and thousands of draws would resolve it.
    """
    decoding = DecodingParams("led", DEPTH, draw="marginal")
    led, posteriors = reference.distributions(prompt, decoding, TEMPERATURE)
    mu, exploit = (
        torch.zeros(posteriors.shape[-1]).scatter_(0, led.candidates[-1], branch[-1])
        for branch in (led.mu, led.exploit)
    )
    for draw in ("coin", "marginal"):
        extra_args = {"led": 1, "led_depth": DEPTH, "led_draw": draw, "tag": 0}
        params = [sampling_params(max_tokens=1, temperature=TEMPERATURE, extra_args=extra_args)] * draws
        outputs, traced = generate_traced(made.llm, [prompt] * draws, params)
        tokens = torch.tensor([output.outputs[0].token_ids[0] for output in outputs])
        policy, confidence, explored = torch.zeros_like(mu), [], 0
        for step, row in traced[0, len(prompt) - 1]:
            traced_draw, at = step.draws[row]
            policy.index_add_(0, traced_draw.candidates[at], traced_draw.policy[at].to(policy) / draws)
            confidence.append(float(traced_draw.confidence[at]))
            explored += int(traced_draw.explored[at])
        own, oracle, final = (chi_square_p(tokens, each) for each in (policy, mu, exploit))
        distance = float((policy - mu).abs().sum() / 2)
        # one draw from mu explores nothing by itself
        z = binomial_z(explored, [1 - each for each in confidence]) if draw == "coin" else 0.0
        figures = {
            "n": draws,
            "p_own_policy": own,
            "p_mu": oracle,
            "p_final_layer": final,
            "distance": distance,
            "z_explored": z,
            "explored": explored / draws,
        }
        good = len(confidence) == draws and own > LIKELY and final < UNLIKELY and abs(z) < FEW_SIGMAS
        text = f"n {draws}: p {own:.2g} against what was drawn from, {oracle:.2g} against mu of transformers (total "
        text += f"variation {distance:.1e}), {final:.0e} against the final layer alone"
        if draw == "coin":
            text += f"; explored {explored / draws:.1%}, {z:+.1f} standard deviations from 1 - confidence"
        good = good and (oracle > LIKELY or not exact)
        yield Check(f"tokens, {draw}", "ok" if good else "FAIL", text, figures)


def entropies(made: VLLMEngine) -> Iterator[Check]:
    """Over many tokens the mean of -log-probability is the mean entropy of what they are drawn from: no tolerance."""
    generator = random.Random(3)
    prompts = [[*random_text(generator, 24), THINK] for _ in range(64)]
    tokens = 48
    for draw in ("coin", "marginal"):
        extra_args = {"led": 1, "led_depth": DEPTH, "led_draw": draw, "led_think_only": 0}
        params = sampling_params(max_tokens=tokens, temperature=TEMPERATURE, extra_args=extra_args)
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        differences, rows = [], 0
        for output in made.llm.generate(inputs, params, use_tqdm=False):
            sample, statistics = output.outputs[0], output.kv_transfer_params["led"]
            rows += statistics["rows"]
            logprobs = [step[token].logprob for step, token in zip(sample.logprobs, sample.token_ids, strict=True)]
            differences.append(-mean(logprobs) - statistics["entropy_mu"])
        error = stdev(differences) / len(differences) ** 0.5
        difference = mean(differences)
        good = rows == tokens * len(prompts) and abs(difference) <= FEW_SIGMAS * error
        text = f"mean -log-probability minus mean entropy {difference:+.4f}, standard error {error:.4f}, {rows} tokens"
        figures = {"difference": difference, "standard_error": error, "n": rows}
        yield Check(f"entropy, {draw}", "ok" if good else "FAIL", text, figures)
