"""Whether LED works here with a model: a small engine, a few requests, and the oracle. What `led-rl doctor` asks."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import TYPE_CHECKING, Any

from led_rl.decoding import DecodingParams
from led_rl.methods.properties import PROPERTIES
from led_rl.thinking import END, START, MissingMarkersError

if TYPE_CHECKING:
    from led_rl.engines.agreement import Agreement

QUESTIONS = ("What is 17 + 25?", "Name a prime number above 50.", "Is 91 a prime number?", "Add 3, 8 and 30.")
TOKENS = 16
TEMPERATURE = 0.8
SMALL = 1e9  # parameters: smaller models are compared with transformers by default
RUNNER_VARIABLE = "VLLM_USE_V2_MODEL_RUNNER"


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from transformers in float32.

    Attributes:
        table, logprob: of a probability in a latent table, and of a log-probability.
        share: of the figures that must be so near; None: their mean must.
        outside: share of the tokens that may be none of transformers' candidates.
    """

    table: float
    logprob: float
    share: float | None
    outside: float
    reason: str


ROUNDING = Tolerance(1e-4, 1e-3, 1.0, 0.0, "float32: sums in another order")
TF32 = Tolerance(
    5e-3,
    2e-2,
    0.98,
    0.01,
    "float32 on a GPU, whose attention may multiply with 10 bits (TF32), so that near ties turn over",
)
COARSE = Tolerance(0.02, 0.1, None, 0.1, "8 bits of precision a product: on average, as single errors are larger")


def tolerance_of(dtype: str, on_gpu: bool) -> Tolerance:
    """By the engine's dtype, `torch.float32` or shorter ones."""
    return (TF32 if on_gpu else ROUNDING) if dtype.endswith("float32") else COARSE


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    status: str  # "ok", "warn", "FAIL" or "skip"
    text: str
    figures: Mapping[str, Any] = field(default_factory=dict)  # what was measured, of checks that measure


def check_runner() -> Check:
    """Which model runner an engine of this machine would use, as far as that is known without a model."""
    from vllm.triton_utils import HAS_TRITON

    if chosen := os.environ.get(RUNNER_VARIABLE):
        return Check("model runner", "ok", f"{'V1' if chosen == '0' else 'V2'}: {RUNNER_VARIABLE}={chosen}")
    if not HAS_TRITON:
        return Check("model runner", "ok", "V1: vLLM finds no Triton, which V2 needs")
    return Check("model runner", "ok", "V2, unless the model or an option asks for V1 (name a MODEL to know)")


def check_decodings() -> Check:
    """The decodings that requests may ask for, and which of them an engine must be started for."""
    others = [
        name if properties.keeps_graphs else f"{name} (with enforce_eager)"
        for name, properties in PROPERTIES.items()
        if properties.own_keys
    ]
    always = [name for name, properties in PROPERTIES.items() if not properties.own_keys]
    return Check("decodings", "ok", f"{', '.join(always)}; of an engine that admits them: {', '.join(others)}")


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
        markers = DecodingParams().markers(tokenizer)
    except MissingMarkersError as error:
        text = f"{error}; requests must name led_start_marker and led_end_marker, or set led_think_only=0"
        return Check("think markers", "warn", text)
    patterns = {START: markers.start, END: markers.end}
    shown = ", ".join(
        f"{text}: {'one token' if isinstance(pattern[0], int) else 'spelled by several tokens'}"
        for text, (pattern,) in patterns.items()
    )
    return Check("think markers", "ok", shown)


def check_engine(model: str, depth: int, compare_anyway: bool) -> Iterator[Check]:
    """Builds an engine in this process and asks it for LED; compares small models, or any with `compare_anyway`."""
    import torch

    from led_rl.engines.agreement import compare, generate_traced, sampling_params
    from led_rl.engines.transformers_engine import TransformersEngine
    from led_rl.engines.vllm_engine import VLLMEngine, model_runner, request_decoder

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
    prompts = [_prompt(engine.tokenizer, question) for question in QUESTIONS]
    decodings = [DecodingParams("led", depth, draw=draw, think_only=False) for draw in ("marginal", "coin")]
    params = [
        sampling_params(
            temperature=TEMPERATURE, max_tokens=TOKENS, seed=i, extra_args=decodings[i % 2].to_extra_args() | {"tag": i}
        )
        for i in range(len(prompts))
    ]
    decoder = request_decoder(engine.llm)
    assert decoder is not None
    decoder.totals(reset=True)
    outputs, traced = generate_traced(engine.llm, prompts, params)
    yield _check_statistics(engine.llm, outputs)
    if compare_anyway or parameters < SMALL:
        found = compare(TransformersEngine(model), prompts, params, outputs, traced)
        yield judge(found, tolerance_of(dtype, torch.cuda.is_available()))
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


def judge(found: "Agreement", tolerance: Tolerance) -> Check:
    """Whether an engine agrees with transformers as closely as its precision allows."""
    table, logprob = (within_share(errors, tolerance.share) for errors in (found.tables, found.logprobs))
    figures = {
        "tables": len(found.tables),
        "table_error": table,
        "logprobs": len(found.logprobs),
        "logprob_error": logprob,
        "largest_table_error": max(found.tables, default=0.0),
        "largest_logprob_error": max(found.logprobs, default=0.0),
        "outside": found.outside,
        "allowed": {"table_error": tolerance.table, "logprob_error": tolerance.logprob, "reason": tolerance.reason},
        "seen": dict(found.seen),
    }
    text = f"{len(found.tables)} latent tables agree to {table:.1e} (allowed {tolerance.table:g}), "
    text += f"{len(found.logprobs)} log-probabilities to {logprob:.1e} ({tolerance.logprob:g})"
    if tolerance.share != 1:
        text += " on average" if tolerance.share is None else f", {tolerance.share:.0%} of them"
    if found.outside:
        text += f"; {found.outside} tokens are no candidates there"
    if found.faults:
        text += f"; {len(found.faults)} faults, {found.faults[0]}"
    good = table <= tolerance.table and logprob <= tolerance.logprob and not found.faults
    good = good and found.outside <= tolerance.outside * (len(found.logprobs) + found.outside)
    return Check("transformers", "ok" if good and found.tables else "FAIL", text, figures)


def within_share(errors: Sequence[float], share: float | None) -> float:
    """What that share of the errors does not exceed, or their mean; 0 without any."""
    if share is None or not errors:
        return mean(errors or [0.0])
    return sorted(errors)[math.ceil(share * len(errors)) - 1]


def one_line(error: Exception) -> str:
    """The first line that says something, of an error that may fill pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
