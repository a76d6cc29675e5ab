"""What a recipe needs on given GPUs: memory by part, the step's time by stage, and which keys to change.

Parameters and activations are counted (`sizes.py`), times are a roofline: see `cost_model.py` and ASSUMED.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from led_rl.benchmarks.cost_model import Machine
from led_rl.benchmarks.memory import held_by_loss, held_per_sequence
from led_rl.benchmarks.sizes import Sizes, count
from led_rl.decoding import UserError
from led_rl.terminal.tables import text_table
from led_rl.training.config import Recipe

GIB = 2**30
ASSUMED = {
    "rate": 0.4,  # of the datasheet's operations/s, reached by forward and backward passes
    "decoding": 0.6,  # of the datasheet's bandwidth, reached by decoding steps
    "sync": 0.3,  # of the bandwidth, reached by handing new weights to the engine
    "runtime": 2.0 * GIB,  # CUDA context, communication buffers and fragmentation of each process
    "engine": 1.0 * GIB,  # activations of the engine's largest batch
    "prompt": 512,  # tokens
    "length": 0.5,  # mean completion over max_completion_length
}


# A recipe for GPUs is planned on any machine. These keys would be refused there, or start DeepSpeed, so the configs get
# other values; `Recipe.values` keeps the recipe's own.
ON_ANY_MACHINE: dict[str, Any] = {
    "bf16": False, "deepspeed": None, "fsdp": None, "use_cpu": True, "ddp_backend": None, "report_to": "none",
}  # fmt: skip


class PlanError(UserError):
    """The recipe or the hardware cannot be planned."""


@dataclass(frozen=True)
class Setup:
    """The settings of a recipe that determine memory and time."""

    gpus: int
    memory: int  # bytes of a GPU
    batch: int  # sequences of a micro-batch
    micro_batches: int  # of a process, in an optimizer step
    rollouts: int  # sequences of a process, in a generation
    prompt: int  # tokens
    completion: int  # tokens, at most
    itemsize: int  # bytes of a weight
    stage: int  # of ZeRO; 0 without DeepSpeed
    sharded: bool  # FSDP2, which shards what ZeRO-3 shards
    offload_optimizer: bool
    offload_weights: bool
    master: bool  # DeepSpeed keeps a float32 copy of the weights
    reference: bool  # a second model for the KL term
    checkpointing: bool
    colocated: bool
    sleeps: bool
    engine_share: float  # of the GPU's memory that the engine takes
    tensor_parallel: int
    depth: int
    support: int = 0  # ids of a support that the loss is normalised over; 0: the vocabulary
    adapter: bool = False


@dataclass(frozen=True)
class Plan:
    """Bytes of one GPU by part and phase, seconds of a step by stage, and advice."""

    training: dict[str, float]
    rollout: dict[str, float]
    seconds: dict[str, float]
    concurrent: int  # sequences of full length whose keys and values fit
    memory: int
    advice: list[str] = field(default_factory=list)

    @property
    def needed(self) -> float:
        return max(sum(self.training.values()), sum(self.rollout.values()))

    @property
    def fits(self) -> bool:
        return self.needed <= self.memory and self.concurrent > 0


def setup_of(recipe: Recipe, gpus: int, memory: int, prompt: int | None = None) -> Setup:
    """Raises PlanError where the recipe's DeepSpeed setting cannot be read."""
    training = recipe.training
    stage, offloads = 0, set()
    if recipe.values.get("deepspeed"):
        settings: Any = recipe.values["deepspeed"]
        if isinstance(settings, str):
            try:
                settings = json.loads(Path(settings).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise PlanError(f"{recipe.path}: deepspeed: {settings}: {error}") from error
        zero = settings.get("zero_optimization", {})
        stage = int(zero.get("stage", 0))
        offloads = {name for name, where in zero.items() if isinstance(where, dict) and where.get("device") == "cpu"}
    completion = training.max_completion_length or 0
    longest = training.vllm_max_model_length
    itemsize = 2 if recipe.values.get("bf16") or recipe.model.dtype in ("bfloat16", "float16") else 4
    return Setup(
        gpus=gpus,
        memory=memory,
        batch=training.per_device_train_batch_size,
        micro_batches=training.gradient_accumulation_steps,
        rollouts=training.per_device_train_batch_size * (training.steps_per_generation or 1),
        prompt=prompt or min(int(ASSUMED["prompt"]), max(1, longest - completion) if longest else 2**62),
        completion=completion,
        itemsize=itemsize,
        stage=stage,
        sharded=bool(recipe.values.get("fsdp")),
        offload_optimizer="offload_optimizer" in offloads,
        offload_weights="offload_param" in offloads,
        master=bool(recipe.values.get("deepspeed")),
        reference=training.beta > 0 and not recipe.model.use_peft,
        checkpointing=training.gradient_checkpointing,
        colocated=bool(training.use_vllm) and training.vllm_mode == "colocate",
        sleeps=training.vllm_enable_sleep_mode,
        engine_share=training.vllm_gpu_memory_utilization,
        tensor_parallel=training.vllm_tensor_parallel_size,
        depth=0 if training.decoding == "standard" else training.led_depth,
        support=_support(training),
        adapter=bool(recipe.model.use_peft),
    )


def _support(training: Any) -> int:
    if not training.needs_supports:
        return 0
    return max(training.top_k, 0 if training.decoding == "standard" else training.decoding_params().k)


def sizes_of(recipe: Recipe, config: PreTrainedConfig, setup: Setup) -> Sizes:
    from trl import get_peft_config

    adapter = get_peft_config(recipe.model)

    def adapt(model: nn.Module) -> nn.Module:
        if adapter is None:
            return model
        from peft import get_peft_model

        return get_peft_model(model, adapter)

    dtype = torch.bfloat16 if setup.itemsize == 2 else torch.float32
    return count(config, setup.batch, setup.prompt + setup.completion, dtype, setup.checkpointing, adapt)


def plan(setup: Setup, sizes: Sizes, config: PreTrainedConfig, machine: Machine) -> Plan:
    """Bytes and seconds of one GPU. Sharding: ZeRO-1 optimizer, -2 gradients too, -3 and FSDP2 weights too (Rajbhandari
    et al. 2020, arXiv 1910.02054, section 5); Adam keeps two numbers a parameter, and
    DeepSpeed a float32 copy of its own."""
    text = config.get_text_config()
    n = setup.gpus
    shards = {1: n if setup.stage >= 1 or setup.sharded else 1, 2: n if setup.stage >= 2 or setup.sharded else 1,
              3: n if setup.stage >= 3 or setup.sharded else 1}  # fmt: skip
    weights = sizes.parameters * setup.itemsize / shards[3] * (0 if setup.offload_weights else 1)
    state = 12 if setup.master else 2 * setup.itemsize  # without DeepSpeed in the weights' own type
    static = {
        "weights": weights,
        "reference model": weights if setup.reference else 0.0,
        "optimizer": 0.0 if setup.offload_optimizer else sizes.trained * state / shards[1],
        "runtime": ASSUMED["runtime"],
    }
    layer = sizes.parameters * setup.itemsize / text.num_hidden_layers
    loss = held_by_loss(
        setup.batch * setup.completion, setup.support, text.hidden_size, text.vocab_size, setup.itemsize,
        trains_head=not setup.adapter,
    )  # fmt: skip
    training = static | {
        "gradients": sizes.trained * setup.itemsize / shards[2],
        "gathered layer": 2 * layer if shards[3] > 1 else 0.0,
        "activations": float(sizes.activations),
        "loss, or recomputed layer": float(max(loss, sizes.recomputed)),  # the loss is done when the first layer is
    }
    rollout = dict(static)
    heads = getattr(text, "num_key_value_heads", text.num_attention_heads)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token_bytes = 2 * text.num_hidden_layers * heads * head_dim * setup.itemsize / setup.tensor_parallel
    held = held_per_sequence(setup.depth, text.hidden_size, setup.itemsize, text.vocab_size, on_device=True)
    led = setup.rollouts * setup.tensor_parallel * sum(held.values()) if setup.depth else 0
    longest = setup.prompt + setup.completion
    concurrent = setup.rollouts
    if setup.colocated:
        engine = {
            "engine: weights": sizes.parameters * setup.itemsize / setup.tensor_parallel,
            "engine: LED": float(led),
            "engine: activations": ASSUMED["engine"],
        }
        cache = setup.engine_share * setup.memory - sum(engine.values())
        engine["engine: keys and values"] = max(0.0, cache)
        rollout |= engine
        if not setup.sleeps:
            training |= engine
        concurrent = max(0, int(cache // (token_bytes * longest)))
    seconds = _seconds(setup, sizes, text, machine, token_bytes, concurrent)
    return Plan(training, rollout, seconds, concurrent, setup.memory)


def _seconds(setup: Setup, sizes: Sizes, text: Any, machine: Machine, token_bytes: float, concurrent: int
             ) -> dict[str, float]:  # fmt: skip
    """Of one optimizer step: all sequences of a generation are decoded, and trained on."""
    mean = ASSUMED["length"] * setup.completion
    trained = setup.batch * setup.micro_batches
    rollouts = trained * setup.tensor_parallel  # GPUs that share a copy of the model decode together
    together = max(1, min(rollouts, concurrent))
    bandwidth = machine.bandwidth * ASSUMED["decoding"]
    step = (sizes.parameters * setup.itemsize / setup.tensor_parallel
            + together * token_bytes * (setup.prompt + mean / 2)) / bandwidth  # fmt: skip
    # The longest completion of a generation ends it; more than fit at a time go in waves.
    decoding = step * setup.completion * math.ceil(rollouts / together)
    tokens = trained * (setup.prompt + mean)
    attention = 2 * text.num_hidden_layers * text.hidden_size * (setup.prompt + mean)  # operations a token
    forward = tokens * (2 * sizes.parameters + attention)
    passes = 3 + int(setup.checkpointing)  # forward, backward (two forwards), and the recomputation
    if not setup.offload_optimizer:
        update = 0.0
    else:
        update = sizes.trained * 16 / setup.gpus / 20e9  # over PCIe, 20 GB/s
    return {
        "rollout": decoding,
        "training": forward * (passes + 1) / (machine.flops * ASSUMED["rate"]) + update,  # + 1: old log-probabilities
        "weight sync": sizes.parameters * setup.itemsize / (machine.bandwidth * ASSUMED["sync"]),
    }


def page(found: Plan, sizes: Sizes, setup: Setup, hardware: str) -> str:
    """The plan as text."""
    parts = dict.fromkeys([*found.training, *found.rollout])
    lines = [
        [part, *(f"{phase[part] / GIB:.2f}" if phase.get(part) else "" for phase in (found.training, found.rollout))]
        for part in parts
        if found.training.get(part) or found.rollout.get(part)
    ]
    lines.append(["total", f"{sum(found.training.values()) / GIB:.2f}", f"{sum(found.rollout.values()) / GIB:.2f}"])
    verdict = "fits" if found.fits else "does NOT fit"
    texts = [
        f"{setup.gpus} GPUs of {setup.memory / GIB:.0f} GiB; {sizes.parameters / 1e9:.2f} billion parameters, "
        f"{sizes.trained / 1e9:.2f} trained; micro-batch {setup.batch} x {setup.prompt + setup.completion} tokens",
        text_table(["GiB of one GPU", "training", "rollout"], lines),
        f"{verdict}: {found.needed / GIB:.1f} of {setup.memory / GIB:.0f} GiB",
    ]
    if setup.colocated:
        texts.append(
            f"keys and values: {found.concurrent} sequences of full length at a time; a generation has "
            f"{setup.rollouts * setup.tensor_parallel}"
        )
    total = sum(found.seconds.values())
    times = ", ".join(f"{stage} {seconds:.0f} s ({seconds / total:.0%})" for stage, seconds in found.seconds.items())
    texts.append(f"a step on {hardware.upper()}: {total:.0f} s: {times}")
    texts.append(
        f"assumed: prompts of {setup.prompt} tokens, completions of {ASSUMED['length']:.0%} of the limit on average, "
        f"{ASSUMED['rate']:.0%} of the datasheet's operations/s in training, {ASSUMED['decoding']:.0%} of its "
        f"bandwidth in decoding, {ASSUMED['runtime'] / GIB:.0f} GiB for runtime and communication"
    )
    if found.advice:
        texts.append("\n".join(["changes, one after the other:", *(f"  {line}" for line in found.advice)]))
    return "\n".join(texts)
