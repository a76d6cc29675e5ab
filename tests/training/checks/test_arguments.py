"""What a trainer is built with and cannot use is refused."""

import pytest
import torch
from conftest import save_tiny_model
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from led_rl.training.checks.arguments import check_tied_head, check_trainer_arguments
from led_rl.training.config import CheckError, LEDGRPOConfig


@pytest.mark.parametrize(
    ("adapter", "refused"),
    [
        ({"target_modules": ["q_proj"]}, None),
        ({"target_modules": "all-linear"}, None),
        ({"target_modules": ["q_proj", "lm_head"]}, "head"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "head"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embeddings"),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_on_a_tied_head(tmp_path, adapter, refused, tied):
    folder = save_tiny_model(tmp_path / "model", layers=2, tie_word_embeddings=tied)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, task_type="CAUSAL_LM", **adapter)
    )
    if tied and refused:
        with pytest.raises(CheckError, match=f"the adapter changes the {refused}"):
            check_tied_head(model)
    else:
        check_tied_head(model)


def test_tools_need_rollouts_that_each_process_makes_alone(tmp_path, monkeypatch):
    common = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "use_vllm": True}
    monkeypatch.setattr(LEDGRPOConfig, "world_size", 2)
    args = LEDGRPOConfig(**common, vllm_mode="server")
    with pytest.raises(CheckError, match="would wait for ever"):
        check_trainer_arguments(args, {"tools": [print]})
    check_trainer_arguments(args, {})
    check_trainer_arguments(LEDGRPOConfig(**common, vllm_mode="colocate"), {"tools": [print]})


def test_a_rollout_func_cannot_tell_supports(tmp_path):
    args = LEDGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, decoding="led")
    with pytest.raises(CheckError, match="train_support: vocabulary"):
        check_trainer_arguments(args, {"rollout_func": print})


def test_fsdp_on_cpus_would_be_ddp(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    args = LEDGRPOConfig(str(tmp_path), use_cpu=True, bf16=False, fsdp="full_shard")
    with pytest.raises(CheckError, match="fsdp: this machine has no GPU"):
        check_trainer_arguments(args, {})
    check_trainer_arguments(LEDGRPOConfig(str(tmp_path), use_cpu=True, bf16=False), {})
