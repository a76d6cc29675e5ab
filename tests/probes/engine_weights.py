"""What the parameters of vLLM's model must be, from those of the trainer's."""

import torch


def fused(parameters: dict) -> dict:
    """The trainer's parameters under vLLM's names: q, k, v and gate, up are one matrix each there."""
    expected = dict(parameters)
    for group, parts in (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj"))):
        for name in [name for name in parameters if parts[0] in name]:
            pieces = [expected.pop(name.replace(parts[0], part)) for part in parts]
            expected[name.replace(parts[0], group)] = torch.cat(pieces)
    return expected


def merged(parameters: dict, scaling: float) -> dict:
    """A model's parameters with its adapter merged, by LoRA's formula: W + alpha / r B A (arXiv 2106.09685, 4.1)."""
    parameters = {name.removeprefix("base_model.model."): value for name, value in parameters.items()}
    whole = {}
    for name, value in parameters.items():
        layer = name.removesuffix(".base_layer.weight")
        if layer != name:
            down, up = (parameters[f"{layer}.lora_{part}.default.weight"] for part in "AB")
            whole[f"{layer}.weight"] = value + scaling * up @ down
        elif ".lora_" not in name:
            whole[name] = value
    return whole
