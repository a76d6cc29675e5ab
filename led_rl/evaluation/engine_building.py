"""The engine that an evaluation's recipe asks for, built for each checkpoint that the running one cannot take."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from led_rl.decoding import is_tied
from led_rl.engines.engine import Engine
from led_rl.engines.engine_processes import EngineProcesses, device_shares
from led_rl.engines.environment import has_gpu
from led_rl.engines.vllm_plugin.architectures import ARCHITECTURES
from led_rl.evaluation.arms import Arm
from led_rl.evaluation.checkpoints import Model
from led_rl.evaluation.recipe import EvaluationRecipe
from led_rl.evaluation.rows import EvaluationError
from led_rl.sampler.capture_options import MAX_K, admitting


def engine_name(recipe: EvaluationRecipe) -> str:
    """`vllm` or `transformers`; `auto` is vLLM where it is installed."""
    if recipe.engine == "auto":
        return "vllm" if importlib.util.find_spec("vllm") else "transformers"
    return recipe.engine


def check_engine(recipe: EvaluationRecipe, models: dict[str, Model], arms: dict[str, Arm], longest_prompt: int) -> None:
    """What an engine would refuse once it starts.

    Raises:
        EvaluationError, EngineError: names the key or the checkpoint, and what is allowed.
    """
    device_shares(recipe.data_parallel, recipe.tensor_parallel_size)
    processes = recipe.data_parallel * recipe.tensor_parallel_size
    cores = os.cpu_count() or 1
    if not has_gpu() and processes > max(2, cores):
        raise EvaluationError(f"data_parallel, tensor_parallel_size: {processes} engine processes on {cores} cores")
    explores = any(not arm.decoding.is_standard for arm in arms.values())
    for label, model in models.items():
        found = (model.config.architectures or ["(none named)"])[0]
        if engine_name(recipe) == "vllm" and explores and found not in ARCHITECTURES:
            raise EvaluationError(
                f"checkpoint {label}: vLLM has no LED for {found}; it has for {', '.join(ARCHITECTURES)}. Allowed "
                "besides: arms of standard decoding, or engine: transformers"
            )
        if engine_name(recipe) == "transformers":
            from transformers import AutoModelForCausalLM

            if type(model.config) not in AutoModelForCausalLM._model_mapping:
                raise EvaluationError(f"checkpoint {label}: {found} is no causal language model of transformers")
    if recipe.engine_arguments:
        from led_rl.engines.vllm_engine import check_arguments

        longest = max(arm.sampling.max_tokens for arm in arms.values())
        check_arguments(recipe.engine_arguments, longest_prompt + longest)


@contextmanager
def engines(
    recipe: EvaluationRecipe, models: dict[str, Model], arms: dict[str, Arm], longest_prompt: int
) -> Iterator[Callable[[str], Engine]]:
    """A function from a checkpoint's label to an engine with its weights; it rebuilds the engine where it must."""
    running: tuple[Model, Engine] | None = None
    with TemporaryDirectory(prefix="led-rl-merged-") as merged:

        def engine_of(label: str) -> Engine:
            nonlocal running
            model = models[label]
            path = model.merged_into(Path(merged) / str(list(models).index(label)))
            if running is not None and recipe.tensor_parallel_size == 1 and model.fits_engine_of(running[0]):
                running[1].load_weights(path)
                return running[1]
            if running is not None:
                running[1].close()
                running = None
            engine = _engine(recipe, model, path, arms, longest_prompt)
            running = (model, engine)
            return engine

        try:
            yield engine_of
        finally:
            if running is not None:
                running[1].close()


def _engine(recipe: EvaluationRecipe, model: Model, path: str, arms: dict[str, Arm], longest_prompt: int) -> Engine:
    """An engine for a checkpoint. vLLM runs in a process of its own, so that it frees its memory when it ends."""
    if engine_name(recipe) == "vllm":
        text = model.config.get_text_config()
        options = _vllm_options(recipe, text.num_hidden_layers, is_tied(text), arms, longest_prompt)
        build = partial(_vllm, path, options)
        return EngineProcesses(build, recipe.data_parallel, recipe.tensor_parallel_size)
    for name, arm in arms.items():
        if arm.decoding.properties.changes_forward:
            raise EvaluationError(
                f"arm {name!r}: {arm.decoding.decoding} changes the forward pass; it needs engine: vllm"
            )
    build = partial(_transformers, path, recipe.max_num_seqs)
    return build() if recipe.data_parallel == 1 else EngineProcesses(build, recipe.data_parallel)


def _vllm_options(
    recipe: EvaluationRecipe, layers: int, tied: bool, arms: dict[str, Arm], longest_prompt: int
) -> dict[str, Any]:
    decodings = [arm.decoding for arm in arms.values()]
    for decoding in decodings:
        decoding.layers(layers, tied)  # raises if the model lacks some
    read = {layer for decoding in decodings if decoding.reads_depth for layer in decoding.layers(layers)}
    depth = 0 if all(decoding.is_standard for decoding in decodings) else layers + 1 - min(read, default=layers)
    from_the_top = read == set(range(layers + 1 - depth, layers))
    options: dict[str, Any] = {
        "depth": depth,  # 1: LED's sampler without latent layers
        "latent_layers": None if from_the_top else tuple(sorted(read, reverse=True)),
        "max_k": max(MAX_K, *(decoding.k for decoding in decodings)),
        "max_model_len": longest_prompt + max(arm.sampling.max_tokens for arm in arms.values()),
        "max_num_seqs": recipe.max_num_seqs,
        "explored": True,
        "baselines": admitting(decodings),
    }
    if recipe.dtype is not None:
        options["dtype"] = recipe.dtype
    if recipe.tensor_parallel_size > 1:
        options["tensor_parallel_size"] = recipe.tensor_parallel_size
    if not all(decoding.properties.keeps_graphs for decoding in decodings):
        options["enforce_eager"] = True
    if not has_gpu():  # vLLM on CPU ends on a seeded request whose prompt is prefilled in chunks
        options["enable_chunked_prefill"] = False
    return options | recipe.engine_arguments


def _vllm(path: str, options: dict[str, Any]) -> Engine:
    from led_rl.engines.vllm_engine import VLLMEngine

    return VLLMEngine(path, **options)


def _transformers(path: str, max_num_seqs: int) -> Engine:
    from led_rl.engines.transformers_engine import TransformersEngine

    return TransformersEngine(path, max_num_seqs=max_num_seqs)
