"""What a trainer is built with, checked before it loads weights and starts its engine."""

from collections.abc import Mapping, Sized
from typing import Any

import torch
from accelerate.utils import is_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers.trainer_utils import IntervalStrategy

from led_rl.engines.vllm_plugin.architectures import ARCHITECTURES
from led_rl.training.config import CheckError, LEDGRPOConfig
from led_rl.training.schedules.arguments import check_fresh_prompts, check_schedule_arguments


def check_trainer_arguments(args: LEDGRPOConfig, given: Mapping[str, Any]) -> None:
    """Raises CheckError (a ValueError) for arguments of a trainer that do not go together."""
    check_schedule_arguments(args, given)
    if given.get("rollout_func") is not None and args.needs_supports:
        raise CheckError(
            "rollout_func with train_support: sampled: the loss cannot know which tokens a custom rollout could "
            "have sampled; allowed: train_support: vocabulary"
        )
    if args.eval_strategy != "no" and given.get("eval_dataset") is None:
        raise CheckError(
            f"eval_strategy: {IntervalStrategy(args.eval_strategy).value} without an eval_dataset (in a recipe: or "
            "eval_benchmarks); allowed besides: eval_strategy: no"
        )
    if isinstance(given.get("train_dataset"), Sized):
        check_number_of_rows(len(given["train_dataset"]), args)
    if args.fsdp and not torch.cuda.is_available():
        raise CheckError(
            "fsdp: this machine has no GPU, and on CPUs accelerate would train whole copies of the model (DDP) and not "
            "say so. Allowed: fsdp left out"
        )
    has_tools = given.get("tools") or given.get("environment_factory")
    together = args.use_vllm and (args.vllm_mode == "server" or args.vllm_tensor_parallel_size > 1)
    if has_tools and together and args.world_size > 1:
        raise CheckError(
            f"tools with vllm_mode: {args.vllm_mode} and vllm_tensor_parallel_size: {args.vllm_tensor_parallel_size} "
            f"on {args.world_size} processes: all of them generate together, and would wait for ever once one has no "
            "more tool to call. Allowed: vllm_mode: colocate with vllm_tensor_parallel_size: 1"
        )


def check_number_of_rows(rows: int, args: LEDGRPOConfig) -> None:
    """Raises CheckError for fewer rows than a batch takes: TRL drops incomplete batches, and would train no step."""
    assert args.generation_batch_size is not None
    assert args.num_generations is not None
    prompts = args.generation_batch_size // args.num_generations
    if rows < prompts:
        raise CheckError(
            f"the dataset has {rows} rows, and a batch takes {prompts} prompts (per_device_train_batch_size "
            f"{args.per_device_train_batch_size} x {args.world_size} processes x steps_per_generation "
            f"{args.steps_per_generation} / num_generations {args.num_generations}): no step would be trained. Give "
            "more rows, or a smaller batch"
        )
    check_fresh_prompts(args, rows, prompts)


def check_tied_head(model: Any) -> None:
    """Raises CheckError for an adapter on a head that is tied to the embeddings.

    The engine has one tensor for both. TRL merges the adapter into it, or hands on a head of its own, which vLLM leaves
    out: rollouts would come from another model than the one that is trained (https://github.com/huggingface/peft/issues/2777).
    """
    if not is_peft_model(model) or not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return
    base = model.get_base_model()
    for name, module in (("head", base.get_output_embeddings()), ("embeddings", base.get_input_embeddings())):
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            raise CheckError(
                f"the adapter changes the {name}, which this model ties (tie_word_embeddings: true), and vLLM holds "
                "head and embeddings as one: rollouts would come from another model. Leave lm_head and embed_tokens "
                "out of lora_target_modules and lora_modules_to_save, or untie and save the model first"
            )


def check_architecture(config: Any, args: LEDGRPOConfig) -> None:
    """Raises CheckError if the engine cannot draw as `args` ask, or tell supports, with a model of this class."""
    if args.decoding == "standard" and not args.needs_supports:
        return
    found = (config.architectures or ["(none named)"])[0]
    if found not in ARCHITECTURES:
        asked = f"decoding: {args.decoding!r}" if args.decoding != "standard" else "train_support: sampled"
        besides = "decoding: standard" if args.decoding != "standard" else "train_support: vocabulary"
        raise CheckError(
            f"{asked}: the engine has no LED for {found}; it has for {', '.join(ARCHITECTURES)}. Allowed besides: "
            f"{besides}"
        )
