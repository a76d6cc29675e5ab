"""vLLM model classes that hand their latent states on to the sampler.

For each supported architecture the plugin registers a subclass of vLLM's own model. It asks the inner model for the
auxiliary hidden states that vLLM already knows how to return (EAGLE-3 uses them), and returns ONE wide tensor

    [ normed h_L | latent states, deepest layer first | token id and position of the row, in base-256 digits ]

concatenated outside the compiled inner model, so that every runner buffer (CUDA-graph copies and padding included)
carries it unchanged to `compute_logits`. There the first `hidden` columns go on as usual, and the rows to be sampled
are kept for the sampler, which runs next.
"""

import importlib
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from led_rl.decoding import DecodingParams

DEPTH_VARIABLE = "LED_RL_DEPTH"
LAYERS_VARIABLE = "LED_RL_LATENT_LAYERS"
CONFIG_KEY = "led_rl"
ARCHITECTURES = (
    "LlamaForCausalLM",
    "MiMoForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
)
DIGITS = 3  # a number below 256**3 as three base-256 digits: bf16 holds integers up to 256 exactly


@dataclass(frozen=True)
class EngineOptions:
    """What the engine captures for LED; set once, before the engine is built. Depth 0: LED is off."""

    depth: int = 0
    latent_layers: tuple[int, ...] | None = None

    @classmethod
    def for_decoding(cls, decoding: DecodingParams) -> "EngineOptions":
        """What an engine must capture for requests of this decoding, and no more."""
        if decoding.is_standard:
            return cls()
        if decoding.decoding != "led":
            return cls(depth=1)  # our sampler, but no latent layers
        layers = decoding.latent_layers
        return cls(decoding.depth if layers is None else 1 + len(layers), layers)

    @classmethod
    def from_environment(cls) -> "EngineOptions":
        depth = os.environ.get(DEPTH_VARIABLE, "0")
        layers = os.environ.get(LAYERS_VARIABLE, "")
        try:
            options = cls(int(depth), tuple(int(layer) for layer in layers.split(",")) if layers else None)
        except ValueError as error:
            raise ValueError(
                f"{DEPTH_VARIABLE} must be an integer >= 0 and {LAYERS_VARIABLE} a comma-separated list of layers; "
                f"got {depth!r} and {layers!r}"
            ) from error
        if options.depth < 0:
            raise ValueError(f"{DEPTH_VARIABLE} must be an integer >= 0, got {depth!r}")
        return options

    def to_environment(self) -> dict[str, str]:
        return {
            DEPTH_VARIABLE: str(self.depth),
            LAYERS_VARIABLE: ",".join(map(str, self.latent_layers)) if self.latent_layers else "",
        }

    def captured_layers(self, num_layers: int) -> tuple[int, ...]:
        """Latent layers the engine captures, deepest first."""
        if self.latent_layers is not None:  # depth is then no more than the switch
            if outside := [layer for layer in self.latent_layers if not 0 <= layer < num_layers]:
                raise ValueError(f"{LAYERS_VARIABLE} names {outside}, but the model has layers 0 to {num_layers - 1}")
            return tuple(sorted(set(self.latent_layers), reverse=True))
        if self.depth > num_layers:
            raise ValueError(f"{DEPTH_VARIABLE}={self.depth} is more than the model's {num_layers} layers")
        return tuple(range(num_layers - 1, num_layers - self.depth, -1))


@dataclass
class SampledRows:
    """The wide rows of the step being sampled, and the model they came from."""

    model: "LatentStatesMixin"
    wide: Tensor  # (rows, hidden * (1 + latents) + 2 * DIGITS)

    def latent(self, index: int) -> Tensor:
        """(rows, hidden) raw residual stream of captured layer `index`."""
        hidden = self.model.led_hidden
        return self.wide[:, hidden * (1 + index) : hidden * (2 + index)]

    def token_and_position(self) -> tuple[Tensor, Tensor]:
        """(rows,) int64 each: the token fed in at each row, and its position in the sequence."""
        digits = self.wide[:, -2 * DIGITS :].long()
        return from_digits(digits[:, :DIGITS]), from_digits(digits[:, DIGITS:])


_sampled_rows: SampledRows | None = None


def take_sampled_rows(count: int) -> SampledRows:
    """The rows that `compute_logits` saw last. `compute_logits` and sampling alternate within one worker thread."""
    global _sampled_rows
    rows, _sampled_rows = _sampled_rows, None
    if rows is None or rows.wide.shape[0] != count:
        found = "none" if rows is None else str(rows.wide.shape[0])
        raise RuntimeError(
            f"LED is on for this batch of {count} rows, but the model handed on {found}: the latent states were lost "
            "between the model and the sampler. Stopping, rather than sample without LED in silence."
        )
    return rows


class LatentStatesMixin:
    """Put before a vLLM `...ForCausalLM` class in the MRO."""

    led_hidden: int
    led_layers: tuple[int, ...]  # captured latent layers, deepest first
    led_depth: int

    def __init__(self, *, vllm_config, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        options = EngineOptions.from_environment()
        config = vllm_config.model_config.hf_text_config
        self.led_depth = options.depth
        self.led_hidden = config.hidden_size
        self.led_layers = options.captured_layers(config.num_hidden_layers) if options.depth else ()
        if self.led_layers:
            self.set_aux_hidden_state_layers(tuple(reversed(self.led_layers)))  # type: ignore[attr-defined]
            # vLLM's compile-cache hash does not see auxiliary layers: without this, LED and plain runs share cached
            # graphs, and one without the states can be loaded in silence.
            vllm_config.additional_config[CONFIG_KEY] = list(self.led_layers)

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None):
        output = super().forward(input_ids, positions, intermediate_tensors, inputs_embeds)  # type: ignore[misc]
        if not self.led_depth:
            return output
        hidden, latents = output if isinstance(output, tuple) else (output, [])
        if len(latents) != len(self.led_layers):
            raise RuntimeError(
                f"{type(self).__name__} returned {len(latents)} latent states instead of {len(self.led_layers)}"
            )
        meta = torch.cat([to_digits(input_ids, hidden.dtype), to_digits(positions, hidden.dtype)], dim=-1)
        return torch.cat([hidden, *reversed(latents), meta], dim=-1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        global _sampled_rows
        if self.led_depth and hidden_states.shape[-1] != self.led_hidden:
            _sampled_rows = SampledRows(self, hidden_states)
            hidden_states = hidden_states[:, : self.led_hidden].contiguous()
        return super().compute_logits(hidden_states)  # type: ignore[misc]

    def latent_logits(self, states: Tensor, normed: Tensor | None) -> Tensor:
        """(rows, hidden) raw states -> (rows, vocab) logits; rows where `normed` go through the final norm first."""
        if normed is not None:
            states = torch.where(normed[:, None], self.model.norm(states), states)  # type: ignore[attr-defined]
        return super().compute_logits(states.contiguous())  # type: ignore[misc]


def to_digits(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """(n,) integers below 256**DIGITS -> (n, DIGITS) base-256 digits, exact in fp16, bf16 and fp32."""
    shifts = torch.arange(0, 8 * DIGITS, 8, device=numbers.device)
    return ((numbers[:, None] >> shifts) & 255).to(dtype)


def from_digits(digits: Tensor) -> Tensor:
    """Inverse of `to_digits`: (n, DIGITS) int64 -> (n,)."""
    shifts = torch.arange(0, 8 * DIGITS, 8, device=digits.device)
    return (digits << shifts).sum(-1)


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
