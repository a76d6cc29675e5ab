"""Parameters and activations of a model, counted without memory: its own code runs forward on the meta device."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig

COUNTED = "led_rl_counted"  # the attention of the counting pass


@dataclass(frozen=True)
class Sizes:
    """What the counting pass found, for one process.

    Attributes:
        parameters: of the model.
        trained: parameters that take gradients.
        activations: bytes that autograd keeps for the sequences of one micro-batch.
        recomputed: bytes that come on top while one checkpointed layer is computed again; 0 without checkpointing.
    """

    parameters: int
    trained: int
    activations: int
    recomputed: int


class _Attention(torch.autograd.Function):
    """Keeps what FlashAttention keeps: queries, keys, values, outputs and a float32 log-sum-exp a query and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        outputs = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, outputs, query.new_empty(query.shape[:3], dtype=torch.float32))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        raise NotImplementedError("only the forward pass is counted")


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> tuple:
    return _Attention.apply(query, key, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(COUNTED, _attend)


def count(config: PreTrainedConfig, batch: int, tokens: int, dtype: torch.dtype, checkpointing: bool,
          adapt: Callable[[nn.Module], nn.Module] = lambda model: model) -> Sizes:  # fmt: skip
    """Runs the model's own forward pass on the meta device.

    Args:
        batch, tokens: shape of the micro-batch.
        adapt: wraps the model, as an adapter does.
    """
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=COUNTED)
    model = adapt(model.train())
    parameters = list(model.parameters())
    whole = _kept(model, batch, tokens)
    kept, recomputed = whole, 0
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
        kept = _kept(model, batch, tokens)
        recomputed = math.ceil((whole - kept) / config.get_text_config().num_hidden_layers)
    return Sizes(
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        kept,
        recomputed,
    )


def _kept(model: nn.Module, batch: int, tokens: int) -> int:
    """Bytes of the distinct storages that autograd keeps from embeddings to the final norm, weights left out."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    whole: Any = model
    body = (whole.get_base_model() if hasattr(whole, "get_base_model") else whole).base_model
    device = next(model.parameters()).device
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        body(input_ids=torch.zeros(batch, tokens, dtype=torch.int64, device=device), use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())
