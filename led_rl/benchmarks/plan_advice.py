"""Which keys of a recipe to change where its plan does not fit."""

from collections.abc import Callable
from dataclasses import asdict, replace

from transformers import PreTrainedConfig

from led_rl.benchmarks.cost_model import Machine
from led_rl.benchmarks.plan import GIB, Plan, Setup, plan
from led_rl.benchmarks.sizes import Sizes


def _checkpointing(setup: Setup) -> Setup | None:
    return None if setup.checkpointing else replace(setup, checkpointing=True)


def _sleep(setup: Setup) -> Setup | None:
    return None if setup.sleeps or not setup.colocated else replace(setup, sleeps=True)


def _small_batch(setup: Setup) -> Setup | None:
    return None if setup.batch == 1 else replace(setup, batch=1, micro_batches=setup.micro_batches * setup.batch)


def _zero3(setup: Setup) -> Setup | None:
    several = setup.gpus > 1 and setup.stage < 3 and not setup.sharded
    return replace(setup, stage=3, master=True) if several else None


def _small_engine(setup: Setup) -> Setup | None:
    return replace(setup, engine_share=0.35) if setup.colocated and setup.engine_share > 0.35 else None


def _tensor_parallel(setup: Setup) -> Setup | None:
    apart = setup.colocated and setup.gpus > 1 and setup.tensor_parallel == 1
    return replace(setup, tensor_parallel=setup.gpus) if apart else None


def _offload(setup: Setup) -> Setup | None:
    if setup.offload_weights:
        return None
    return replace(setup, stage=3, master=True, offload_optimizer=True, offload_weights=True)


def _short(setup: Setup) -> Setup | None:
    return replace(setup, completion=setup.completion // 2) if setup.completion > 1 else None


# What to change, in the order in which it costs least: keys of the recipe, and the setup that they make.
CHANGES: tuple[tuple[str, Callable[[Setup], Setup | None]], ...] = (
    ("gradient_checkpointing: true", _checkpointing),
    ("vllm_enable_sleep_mode: true", _sleep),
    ("per_device_train_batch_size: 1, with gradient_accumulation_steps: {micro_batches}", _small_batch),
    ("deepspeed: launch/zero3.json", _zero3),
    ("vllm_gpu_memory_utilization: {engine_share}", _small_engine),
    ("vllm_tensor_parallel_size: {tensor_parallel}", _tensor_parallel),
    ("deepspeed: launch/zero3_offload.json", _offload),
    ("max_completion_length: {completion}", _short),
)


def advise(setup: Setup, size: Callable[[Setup], Sizes], config: PreTrainedConfig, machine: Machine) -> Plan:
    """The plan; where it does not fit, with the changes, one after the other, until it does.

    Args:
        size: counts for a setup.
    """
    first = plan(setup, size(setup), config, machine)
    if first.fits:
        return first
    advice, now, before = [], setup, first
    for text, change in CHANGES:
        changed = change(now)
        if changed is None:
            continue
        after = plan(changed, size(changed), config, machine)
        if after.needed >= before.needed and after.concurrent <= before.concurrent:
            continue
        needed = f"{after.needed / GIB:.1f} GiB, {'fits' if after.fits else 'still too much'}"
        advice.append(f"{text.format(**asdict(changed))}: {needed}")
        now, before = changed, after
        if after.fits:
            break
    return replace(first, advice=advice)
