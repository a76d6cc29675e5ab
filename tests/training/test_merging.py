"""Merging an adapter for the engine leaves frozen weights bit for bit; adding and subtracting it does not."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3Config

from led_rl.training.merging import adapted_layers, merged_weight, unmerged

SYNCS = 90
CONFIG = Qwen3Config(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=32,
)  # fmt: skip


@pytest.fixture
def model():
    model = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.bfloat16)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))


def train(model, step):
    """Lets every adapter grow, as a learning rate of 1e-5 would."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.full_like(parameter, 1e-5 * step).mul_(torch.randn_like(parameter).sign())


def test_frozen_weights_stay_as_they_are(model):
    layers = adapted_layers(model)
    assert len(layers) == 2 * 7
    before = {name: layer.get_base_layer().weight.clone() for name, layer in layers.items()}
    for step in range(1, SYNCS + 1):
        train(model, step)
        for name, layer in layers.items():
            down, up = (layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float())
            expected = before[name].float() + 2.0 * up @ down
            torch.testing.assert_close(merged_weight(layer).float(), expected, atol=1e-5, rtol=2**-7)
            assert torch.equal(layer.get_base_layer().weight, before[name])
            assert not layer.merged


def test_adding_and_subtracting_would_move_them(model):
    """What this module is for: PEFT's own merge and its reversal, as TRL calls them at every sync."""
    layers = adapted_layers(model)
    before = {name: layer.get_base_layer().weight.float().clone() for name, layer in layers.items()}
    for step in range(1, SYNCS + 1):
        train(model, step)
        model.merge_adapter()
        model.unmerge_adapter()
    moved = torch.cat(
        [(layer.get_base_layer().weight.float() - before[name]).flatten() for name, layer in layers.items()]
    )
    changed = torch.cat([layer.get_delta_weight("default").float().flatten() for layer in layers.values()])
    assert moved.square().mean() > (0.05 * changed.square().mean().sqrt()) ** 2


def test_trl_merges_nothing_meanwhile(model):
    with unmerged(model):
        model.merge_adapter()
        assert not any(layer.merged for layer in adapted_layers(model).values())
    model.merge_adapter()
    assert all(layer.merged for layer in adapted_layers(model).values())


def test_what_cannot_be_copied_is_left_to_trl(model):
    layer = next(iter(adapted_layers(model).values()))
    layer.lora_bias["default"] = True
    assert adapted_layers(model) is None
