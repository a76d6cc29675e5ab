"""vLLM model classes that keep their latent states for the sampler.

For each supported architecture the plugin registers a subclass of vLLM's own model, whose decoder layers keep what
enters them: the residual stream after l layers, at the rows of the step that will be sampled and at no other. The rows
lie in buffers made with the model: the engine's memory profiling counts them, CUDA-graph replay fills them, and no
prefill token costs anything. What the model returns is unchanged.
"""

import importlib
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_world_size, tensor_model_parallel_all_gather
from vllm.utils.torch_utils import direct_register_custom_op

from led_rl.decoding import is_tied
from led_rl.engines.vllm_plugin.architectures import ARCHITECTURES
from led_rl.engines.vllm_plugin.changed_passes import ChangedPasses
from led_rl.engines.vllm_plugin.latent_states import LatentStates, keeping
from led_rl.engines.vllm_plugin.mixed_inputs import MixedInputs, replaced
from led_rl.engines.vllm_plugin.noisy_layers import LayerNoise
from led_rl.engines.vllm_plugin.plugin import keep_over_sleep
from led_rl.engines.vllm_plugin.row_copies import keep_rows
from led_rl.sampler.capture_options import EngineOptions
from led_rl.sampler.latent_layers import Head, LatentStatistics, latent_statistics, merge_ranks

CONFIG_KEY = "led_rl"
CANDIDATES = 8  # the usual k, for warming up


direct_register_custom_op("led_rl_keep_rows", keep_rows, mutates_args=["kept"], fake_impl=lambda *_: None)
direct_register_custom_op("led_rl_replaced", replaced, fake_impl=lambda embedded, *_: torch.empty_like(embedded))


class LatentStatesMixin:
    """Put before a vLLM `...ForCausalLM` class in the MRO."""

    led_layers: tuple[int, ...]  # captured latent layers, deepest first
    led_states: LatentStates
    led_changes: ChangedPasses | None = None  # of an engine that admits decodings which change the forward pass
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
        self.led_layers = options.captured_layers(config.num_hidden_layers, is_tied(config))
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
        # vLLM's compile-cache hash does not see what these layers add: without this, LED and plain runs share cached
        # graphs, and one that keeps no states can be loaded in silence.
        vllm_config.additional_config[CONFIG_KEY] = [*self.led_layers, *options.baselines]
        self._admit_changes(options, vllm_config)

    def _admit_changes(self, options: EngineOptions, vllm_config: Any) -> None:
        """Lets requests change the forward pass as far as the engine's options say."""
        model: Any = self.model  # type: ignore[attr-defined]
        tokens, hidden = vllm_config.scheduler_config.max_num_batched_tokens, model.config.hidden_size
        mixes = noise = None
        if any(options.admits(name) for name in ("soft_thinking", "soft_thinking_gumbel")):
            mixes = MixedInputs(model.embed_tokens, tokens, hidden, vllm_config.model_config.dtype)
        if options.admits("latent_noise") and vllm_config.model_config.enforce_eager:  # others refuse the requests
            noise = LayerNoise(model.layers)
        if mixes or noise:
            self.led_changes = ChangedPasses(mixes, noise)
            keep_over_sleep(self, self.led_changes.tensors())

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None, **kwargs):
        if self.led_depth and input_ids is not None and (input_ids.is_cuda or not self.led_states.idle):
            kept = self.led_states
            kept.take(input_ids, positions)
        return super().forward(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)  # type: ignore[misc]

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        if self.led_depth and not self.led_warm:
            self._warm_up()
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
