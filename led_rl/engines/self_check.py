"""Whether LED works here with a model: a small engine, a few requests, and the oracle. What `led-rl doctor` asks."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from led_rl.decoding import DecodingParams
from led_rl.thinking import END, START, MissingMarkersError, ThinkMarkers

if TYPE_CHECKING:
    from led_rl.engines.transformers_engine import TransformersEngine

QUESTIONS = ("What is 17 + 25?", "Name a prime number above 50.", "Is 91 a prime number?", "Add 3, 8 and 30.")
TOKENS = 16
TEMPERATURE = 0.8
SMALL = 1e9  # parameters of a model that is compared with transformers unasked
RUNNER_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"
# How far probabilities and log-probabilities may be from transformers in float32: each of them in a float32 engine, on
# average in one of lower precision.
EXACT, COARSE = (1e-4, 1e-3), (0.02, 0.1)


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    status: str  # "ok", "warn" or "FAIL"
    text: str


def check_runner() -> Check:
    """Which model runner an engine of this machine would use, as far as that is known without a model."""
    from vllm.triton_utils import HAS_TRITON

    if chosen := os.environ.get(RUNNER_VARIABLE):
        return Check("model runner", "ok", f"{'V1' if chosen == '0' else 'V2'}: {RUNNER_VARIABLE}={chosen}")
    if not HAS_TRITON:
        return Check("model runner", "ok", "V1: vLLM finds no Triton, which V2 needs")
    return Check("model runner", "ok", "V2, unless the model or an option asks for V1 (name a MODEL to know)")


def check_architecture(config: Any, depth: int) -> Check:
    """Whether LED supports a model of this transformers config at this depth."""
    from led_rl.engines.vllm_plugin.architectures import ARCHITECTURES

    architecture = (config.architectures or ["unknown"])[0]
    if architecture not in ARCHITECTURES:
        return Check("architecture", "FAIL", f"{architecture} is not supported; LED knows {', '.join(ARCHITECTURES)}")
    layers = config.get_text_config().num_hidden_layers
    if depth > layers:
        return Check("architecture", "FAIL", f"--depth {depth} reads {depth} layers, but {architecture} has {layers}")
    return Check("architecture", "ok", f"{architecture}, {layers} layers")


def check_markers(tokenizer: Any) -> Check:
    """How the tokenizer spells the think markers."""
    try:
        markers = ThinkMarkers.from_tokenizer(tokenizer)
    except MissingMarkersError as error:
        text = f"{error}; requests must name led_start_marker and led_end_marker, or set led_think_only=0"
        return Check("think markers", "warn", text)
    patterns = {START: markers.start, END: markers.end}
    shown = ", ".join(
        f"{text}: {'one token' if isinstance(pattern[0], int) else 'spelled by several tokens'}"
        for text, (pattern,) in patterns.items()
    )
    return Check("think markers", "ok", shown)


def check_engine(model: str, depth: int, compare: bool) -> Iterator[Check]:
    """Builds an engine in this process and asks it for LED; compares small models, or any with `compare`."""
    from led_rl.engines.vllm_engine import VLLMEngine, model_runner

    engine = VLLMEngine(model, depth, max_model_len=256, max_num_seqs=8)
    config = engine.llm.llm_engine.vllm_config
    runner = model_runner(engine.llm)
    parameters = sum(parameter.numel() for parameter in runner.model.parameters())
    dtype = str(config.model_config.dtype)
    name = "V2" if config.use_v2_model_runner else "V1"
    layers = list(runner.model.led_layers)
    text = f"model runner {name}, {parameters:,} parameters in {dtype}, latent layers {layers}"
    yield Check("engine", "ok", text)

    yield _check_refusal(engine.llm)
    requests = [_prompt(engine.tokenizer, question) for question in QUESTIONS]
    decodings = [DecodingParams("led", depth, draw=draw, think_only=False) for draw in ("marginal", "coin")]
    decodings = [decodings[i % 2] for i in range(len(requests))]
    outputs, traced = _generate(engine.llm, requests, decodings)
    yield _check_statistics(engine.llm, outputs)
    if compare or parameters < SMALL:
        from led_rl.engines.transformers_engine import TransformersEngine

        yield _check_against_transformers(TransformersEngine(model), requests, decodings, outputs, traced, dtype)
    else:
        text = f"not compared: {parameters:,} parameters (--compare does it)"
        yield Check("transformers", "ok", text)


def _prompt(tokenizer: Any, question: str) -> list[int]:
    text = question
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=not tokenizer.chat_template)


def _check_refusal(llm: Any) -> Check:
    """A misspelt key must be an error, never standard decoding in silence."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=1, extra_args={"led": 1, "led_depht": 4})
    try:
        llm.generate([{"prompt_token_ids": [0]}], params, use_tqdm=False)
    except Exception as error:
        if "led_depht" in str(error):
            return Check("wrong requests", "ok", "refused, and the error names the key")
        return Check("wrong requests", "FAIL", f"refused for another reason: {one_line(error)}")
    return Check("wrong requests", "FAIL", "a misspelt key (led_depht) was not refused: the plugin is not at work")


def _generate(llm: Any, prompts: list[list[int]], decodings: list[DecodingParams]) -> tuple[list[Any], dict]:
    """Outputs, and by (request, step) the traced draw that served it with its index there."""
    from vllm import SamplingParams

    from led_rl.engines.vllm_engine import request_decoder

    params = [
        SamplingParams(
            temperature=TEMPERATURE,
            max_tokens=TOKENS,
            ignore_eos=True,
            logprobs=0,
            seed=i,
            detokenize=False,
            extra_args={**decoding.to_extra_args(), "doctor_request": i},
        )
        for i, decoding in enumerate(decodings)
    ]
    decoder = request_decoder(llm)
    assert decoder is not None
    decoder.totals(reset=True)
    decoder.trace = []
    outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    traced = {}
    for step in decoder.trace:
        for row, draw in step.draws.items():
            request = (step.extra_args[row] or {}).get("doctor_request")
            if request is not None:
                traced[request, int(step.positions[row]) + 1 - len(prompts[request])] = draw
    decoder.trace = None
    return outputs, traced


def _check_statistics(llm: Any, outputs: list[Any]) -> Check:
    from led_rl.engines.vllm_engine import request_decoder
    from led_rl.engines.vllm_plugin.request_statistics import KEY

    decoder = request_decoder(llm)
    assert decoder is not None
    totals = decoder.totals()
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    told = sum((output.kv_transfer_params or {}).get(KEY, {}).get("rows", 0) for output in outputs)
    text = f"{totals['rows']:.0f} rows drawn for {tokens} tokens, {told} in the outputs' statistics"
    if not totals["rows"] == tokens == told:
        return Check("sampler", "FAIL", text)
    if totals["undrawable"]:
        text = (
            f"{totals['undrawable']:.0f} of {totals['rows']:.0f} rows have logits that are no distribution (NaN, +inf)"
        )
        return Check("sampler", "FAIL", f"{text}: are the model's weights sound?")
    if not decoder.check.done:
        return Check("sampler", "FAIL", f"{text}; no latent table was verified")
    rows = totals["rows"]
    explored, confidence = totals["explored"] / rows, totals["confidence"] / rows
    return Check("sampler", "ok", f"{text}; latent tables sane; explored {explored:.1%}, confidence {confidence:.3f}")


def _check_against_transformers(
    reference: "TransformersEngine",
    prompts: list[list[int]],
    decodings: list[DecodingParams],
    outputs: list[Any],
    traced: dict,
    dtype: str,
) -> Check:
    """Tables and log-probabilities of every token of the requests against the same model in transformers, float32."""
    tables, logprobs, outside = [], [], 0
    for request, (prompt, decoding, output) in enumerate(zip(prompts, decodings, outputs, strict=True)):
        sampled = output.outputs[0]
        tokens = list(sampled.token_ids)
        led, posteriors = reference.distributions(prompt + tokens[:-1], decoding, TEMPERATURE)
        for step, token in enumerate(tokens):
            draw, at = traced[request, step]
            row = len(prompt) - 1 + step
            if draw.read is not None and draw.read[at]:
                expected = posteriors[row][:, draw.candidates[at].cpu()]
                tables.append(float((draw.table[at][: len(expected)].cpu() - expected).abs().max()))
            branch = led.mu
            if decoding.draw == "coin":
                branch = led.explore if draw.explored[at] else led.exploit
            found = branch[row][led.candidates[row] == token]
            if not len(found) or not found[0]:
                outside += 1
                continue
            logprobs.append(abs(float(found[0].log()) - sampled.logprobs[step][token].logprob))
    exact = dtype == "torch.float32"
    measure = max if exact else mean
    limits = EXACT if exact else COARSE
    table, logprob = measure(tables or [0.0]), measure(logprobs or [0.0])
    text = f"{len(tables)} latent tables agree to {table:.1e}, {len(logprobs)} log-probabilities to {logprob:.1e}"
    if not exact:
        text += " on average"
    if outside:
        text += f"; {outside} tokens are no candidates there"
    good = table <= limits[0] and logprob <= limits[1] and outside <= (0 if exact else 0.1 * len(logprobs))
    return Check("transformers", "ok" if good and tables else "FAIL", text)


def one_line(error: Exception) -> str:
    """The first line that says something, of an error that may fill pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
