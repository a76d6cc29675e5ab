"""vLLM model classes that keep their latent states for the sampler.

For each supported architecture the plugin registers a subclass of vLLM's own model, whose decoder layers keep what
enters them: the residual stream after l layers, at the rows of the step that will be sampled and at no other. The rows
lie in buffers made with the model: the engine's memory profiling counts them, CUDA-graph replay fills them, and no
prefill token costs anything. What the model returns is unchanged.
"""

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import torch
import vllm.model_executor.model_loader.reload.meta as reload_meta
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather
from vllm.utils.torch_utils import direct_register_custom_op

from led_rl.engines.vllm_plugin.row_copies import keep_every_row, keep_rows, take_tokens
from led_rl.sampler.capture_options import EngineOptions
from led_rl.sampler.latent_layers import Head, LatentStatistics, latent_statistics, merge_ranks

CONFIG_KEY = "led_rl"
CANDIDATES = 8  # the usual k, for warming up
ARCHITECTURES = (
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GemmaForCausalLM",
    "LlamaForCausalLM",
    "MiMoForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)


class LatentStates:
    """Buffers for the rows of one step that are sampled; valid from the model's forward to the next one's.

    Attributes:
        rows: (max_rows,) int64 index of each sampled row among the step's tokens; 0 beyond the step's rows.
        tokens, positions: (max_rows,) int64 token fed in at each row, and its position in the sequence.
        states: (layers, max_rows, hidden) residual stream that enters each captured layer, in the model's dtype.
    """

    def __init__(self, layers: int, max_rows: int, hidden: int, dtype: torch.dtype):
        self.rows = torch.zeros(max_rows, dtype=torch.int64)
        self.tokens = torch.zeros(max_rows, dtype=torch.int64)
        self.positions = torch.zeros(max_rows, dtype=torch.int64)
        self.states = torch.zeros(layers, max_rows, hidden, dtype=dtype)
        self.count = 0
        self.views: list[Tensor] = []  # the step's rows of `tokens`, `positions` and each layer's states
        self.idle = False  # no request of this step is ours: layers that run as Python keep nothing

    def begin(self, rows: Tensor) -> None:
        """Says which tokens of the coming step are sampled, (rows,) ascending; before the model's forward."""
        self.idle = False
        fits = rows.shape[0] <= self.rows.shape[0]  # not always with draft tokens, where LED is refused
        count = rows.shape[0] if fits else 0
        if count < self.count:
            self.rows[count:].zero_()  # a padded CUDA graph reads on beyond the step's rows
        if count != self.count:
            self.count = count
            self.views = [buffer[:count] for buffer in (self.tokens, self.positions, *self.states)]
        self.rows[:count].copy_(rows[:count])

    def skip(self) -> None:
        """Says that no request of the coming step is ours: layers that run as Python on a CPU keep nothing."""
        if self.count:  # compiled layers and replayed graphs go on copying: rows of a longer step are none of this
            self.begin(self.rows[:0])
        self.idle = True

    def take(self, token_ids: Tensor, positions: Tensor) -> None:
        """Keeps the ids and positions of the step's tokens, (tokens,), at its rows."""
        if self.samples_all(token_ids):
            self.views[0].copy_(token_ids)
            self.views[1].copy_(positions)
        else:
            take_tokens(token_ids, positions, self.rows, self.tokens, self.positions)

    def samples_all(self, inputs: Tensor) -> bool:
        """Whether every token of the step is sampled; no device asks: a graph that is replayed knows no `if`."""
        return inputs.shape[0] == self.count and not inputs.is_cuda

    def read(self, order: Tensor | tuple[int, ...], rows: Tensor | int) -> Tensor:
        """(n, depth, hidden) states of `rows` (n,), from their own layers (n, depth) or from those of every row.

        A number n stands for the first n rows: without a copy in the usual case, and in one operation in any.
        """
        if isinstance(rows, int):
            return self._read_first(order, rows)
        if isinstance(order, Tensor):
            return self.states[order, rows[:, None]]
        if order == tuple(range(len(order))):  # the usual case: the deepest layers in turn
            return self.states[: len(order)].index_select(1, rows).transpose(0, 1)
        return torch.stack([self.states[layer].index_select(0, rows) for layer in order], dim=1)

    def _read_first(self, order: Tensor | tuple[int, ...], rows: int) -> Tensor:
        states = self.states[:, :rows]  # (layers, n, hidden)
        if isinstance(order, Tensor):
            layers = order.T[:, :, None].expand(-1, -1, states.shape[2])  # (depth, n, hidden)
            return states.gather(0, layers).transpose(0, 1)
        if order == tuple(range(len(order))):
            return states[: len(order)].transpose(0, 1)
        return torch.stack([states[layer] for layer in order], dim=1)

    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.rows, self.tokens, self.positions, self.states))


direct_register_custom_op("led_rl_keep_rows", keep_rows, mutates_args=["kept"], fake_impl=lambda *_: None)


@functools.cache
def keeping(layer_class: Any) -> type:
    """Subclass of a decoder layer that keeps what enters it. Attributes, names and weights are the layer's own."""

    def forward(self, positions, hidden_states, residual, *args, **kwargs):
        # Within torch.compile the copy must be an operator that the compiler neither traces into nor drops.
        if torch.compiler.is_compiling():
            torch.ops.vllm.led_rl_keep_rows(hidden_states, residual, self.led_rows, self.led_kept)
        elif self.led_states.idle and not hidden_states.is_cuda:  # a graph is captured in a step without requests
            pass
        elif self.led_states.samples_all(hidden_states):
            keep_every_row(hidden_states, residual, self.led_states.views[self.led_view])
        else:
            keep_rows(hidden_states, residual, self.led_rows, self.led_kept)
        return layer_class.forward(self, positions, hidden_states, residual, *args, **kwargs)

    return type(f"Keeping{layer_class.__name__}", (layer_class,), {"forward": forward})


def keep_over_sleep(model: Any, tensors: dict[str, Tensor]) -> None:
    """Registers tensors as the model's buffers: a sleep of level 2 throws away the rest of the model's memory.

    No checkpoint holds them, so that reloading weights has to let them be.
    """
    for name, tensor in tensors.items():
        model.register_buffer(name, tensor, persistent=False)
    for names in ("SKIP_TENSORS", "SKIP_LOAD_TENSORS"):
        spared: set[str] = getattr(reload_meta, names, set())  # vLLM 0.26 has the first alone
        spared.update(tensors)


@dataclass
class SampledRows:
    """The model whose `compute_logits` ran last, and for how many rows."""

    model: "LatentStatesMixin"
    count: int


_sampled_rows: SampledRows | None = None


def take_sampled_rows(count: int) -> "LatentStatesMixin":
    """The model that made the logits of `count` rows. `compute_logits` and sampling alternate within one thread."""
    global _sampled_rows
    sampled, _sampled_rows = _sampled_rows, None
    if sampled is None or sampled.count != count or sampled.model.led_states.count != count:
        found = "none" if sampled is None else f"{sampled.count} ({sampled.model.led_states.count} kept)"
        raise RuntimeError(
            f"LED is on for this batch of {count} rows, but the model handed on {found}: the latent states were lost "
            "between the model and the sampler. Stopping, rather than sample without LED in silence."
        )
    return sampled.model


class LatentStatesMixin:
    """Put before a vLLM `...ForCausalLM` class in the MRO."""

    led_layers: tuple[int, ...]  # captured latent layers, deepest first
    led_states: LatentStates
    led_depth: int
    led_warm = False
    _led_head: Head | None = None

    def __init__(self, *, vllm_config, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        options = EngineOptions.from_environment()
        config = vllm_config.model_config.hf_text_config
        self.led_depth = options.depth
        if not options.depth:
            return
        self.led_layers = options.captured_layers(config.num_hidden_layers)
        self.led_states = LatentStates(
            len(self.led_layers),
            vllm_config.scheduler_config.max_num_seqs,
            config.hidden_size,
            vllm_config.model_config.dtype,
        )
        # Graphs replayed read these rows.
        keep_over_sleep(self, {"led_rows": self.led_states.rows})
        for index, number in enumerate(self.led_layers):
            try:
                layer = self.model.layers[number]  # type: ignore[attr-defined]
                layer.__class__ = keeping(type(layer))  # type: ignore[arg-type]
            except (AttributeError, IndexError, TypeError) as error:
                raise RuntimeError(
                    f"{type(self).__name__} does not give LED the residual stream that enters layer {number}: {error}"
                ) from error
            layer.led_states, layer.led_view = self.led_states, 2 + index
            layer.led_rows, layer.led_kept = self.led_states.rows, self.led_states.states[index]
        # vLLM's compile-cache hash does not see what our layers add: without this, LED and plain runs share cached
        # graphs, and one that keeps no states can be loaded in silence.
        vllm_config.additional_config[CONFIG_KEY] = list(self.led_layers)

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None, **kwargs):
        if self.led_depth and input_ids is not None and (input_ids.is_cuda or not self.led_states.idle):
            kept = self.led_states
            kept.take(input_ids, positions)
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)  # type: ignore[misc]

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        global _sampled_rows
        if self.led_depth:
            if not self.led_warm:
                self._warm_up()
            _sampled_rows = SampledRows(self, hidden_states.shape[0])
        return super().compute_logits(hidden_states)  # type: ignore[misc]

    def _warm_up(self) -> None:
        """Tunes the kernels for every size of batch.

        The engine's profiling pass is the first to call `compute_logits`: what tuning allocates is counted there, and
        no request waits for it.
        """
        self.led_warm = True
        states = self.led_states.states
        if not (states.is_cuda and self.led_layers):
            return
        rows = 1
        while rows <= states.shape[1]:
            order = torch.arange(len(self.led_layers), device=states.device).expand(rows, -1)
            ids = torch.zeros(rows, CANDIDATES, dtype=torch.int64, device=states.device)
            self.latent_statistics(order, rows, ids, torch.ones(rows, device=states.device), None, None)
            rows *= 2

    def get_model_state_cls(self) -> type:
        """Runner V2 asks the model for its `ModelState`, which supplies the sampler."""
        if self.led_depth:
            from led_rl.engines.vllm_plugin.runner_v2 import LEDModelState

            return LEDModelState
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        return DefaultModelState

    def _head(self) -> Any:
        """The layer that holds the LM head's weight; Gemma 2's is the embedding."""
        return self.lm_head if hasattr(self, "lm_head") else self.model.embed_tokens  # type: ignore[attr-defined]

    def led_head(self) -> Head:
        """This rank's LM head; the weights may have been replaced since the last step."""
        head = self._head()
        weight = getattr(head, "weight", None)
        if self._led_head is not None and self._led_head.weight is weight:
            return self._led_head
        if weight is None or not weight.is_floating_point():
            raise RuntimeError(
                f"LED reads the weight of {type(self).__name__}'s LM head, and this engine has packed or quantised it: "
                "leave lm_head out of the quantisation"
            )
        shard, processor = head.shard_indices, self.logits_processor  # type: ignore[attr-defined]
        self._led_head = Head(
            weight,
            shard.num_org_elements,
            shard.org_vocab_start_index,
            getattr(head, "bias", None),
            processor.soft_cap,
            processor.scale,
            whole=get_tensor_model_parallel_world_size() == 1,
        )
        return self._led_head

    def latent_statistics(
        self,
        order: Tensor | tuple[int, ...],
        rows: Tensor | int,
        candidates: Tensor,
        scale: Tensor,
        normed: Tensor | None,
        needed: Tensor | None,
    ) -> LatentStatistics:
        """Log-normalisers and candidate logits of each row's own latent layers, over the whole vocabulary.

        Args:
            order: (n, depth) index of the layer among the captured ones, or those of every row.
            rows: (n,) row of the step; or n, for the first n.
            candidates: (n, k) token ids.
            scale: (n,) 1 / temperature.
            normed: (n,) rows whose states go through the final norm first; None: none.
            needed: (n,) rows that are needed; None: all.
        """
        states = self._normed(self.led_states.read(order, rows), normed)  # (n, depth, hidden)
        local = latent_statistics(states, self.led_head(), candidates, scale, needed)
        ranks = get_tensor_model_parallel_world_size()
        if ranks == 1:
            return local
        mine = torch.cat([local.log_normaliser[..., None], local.logits], dim=-1)  # (n, depth, 1 + k)
        everyones = tensor_model_parallel_all_gather(mine.flatten(0, 1), dim=0)  # the same bits on every rank
        return merge_ranks(everyones.view(ranks, *mine.shape))

    def latent_logits(self, order: Tensor, rows: Tensor, normed: Tensor | None) -> Tensor:
        """(n, vocab) logits of one latent layer a row, with the arguments of `latent_statistics`."""
        states = self._normed(self.led_states.states[order, rows][:, None], normed)
        return self.logits_processor(self._head(), states[:, 0].contiguous())  # type: ignore[attr-defined]

    def _normed(self, states: Tensor, normed: Tensor | None) -> Tensor:
        """(n, depth, hidden) states, those of rows that are `normed` after the model's final norm."""
        if normed is None:
            return states
        with_norm = self.model.norm(states.flatten(0, 1)).view_as(states)  # type: ignore[attr-defined]
        return torch.where(normed[:, None, None], with_norm, states)


def __getattr__(name: str) -> type:
    """`LED<Architecture>`: made on first use, since vLLM imports model classes lazily by name."""
    architecture = name.removeprefix("LED")
    if not name.startswith("LED") or architecture not in ARCHITECTURES:
        raise AttributeError(name)
    from vllm.model_executor.models import registry

    module, class_name = registry._VLLM_MODELS[architecture]
    base = getattr(importlib.import_module(f"vllm.model_executor.models.{module}"), class_name)
    cls = type(name, (LatentStatesMixin, base), {"__module__": __name__})
    globals()[name] = cls
    return cls
