"""What an engine captures for LED: fixed when it is built, and told to its processes through the environment."""

import os
from dataclasses import dataclass

from led_rl.decoding import DecodingParams

DEPTH_VARIABLE = "LED_RL_DEPTH"
LAYERS_VARIABLE = "LED_RL_LATENT_LAYERS"
ENTROPY_VARIABLE = "LED_RL_FINAL_ENTROPY"
SUPPORT_VARIABLE = "LED_RL_SUPPORT"
MAX_K_VARIABLE = "LED_RL_MAX_K"
EXPLORED_VARIABLE = "LED_RL_EXPLORED"
MAX_K = 128


@dataclass(frozen=True)
class EngineOptions:
    """What the engine captures for LED; set once, before the engine is built. Depth 0: LED is off.

    `final_entropy` also counts the final layer's entropy over the whole vocabulary: one more pass over the logits.
    `support`: each output says which ids every token could have been (support.py), for training.
    `explored`: each output says which tokens came from latent layers, and no more than that.
    `max_k`: the most candidates that a request may ask for. All rows of a step are computed at its largest k.
    """

    depth: int = 0
    latent_layers: tuple[int, ...] | None = None
    final_entropy: bool = False
    support: bool = False
    max_k: int = MAX_K
    explored: bool = False

    @classmethod
    def for_decoding(
        cls, decoding: DecodingParams, final_entropy: bool = False, support: bool = False
    ) -> "EngineOptions":
        """What an engine must capture for requests of this decoding, and no more."""
        if decoding.is_standard:
            return cls(1, None, False, True) if support else cls()
        most = max(MAX_K, decoding.k)
        if not decoding.reads_latents:
            return cls(1, None, final_entropy, support, most)  # LED's sampler, but no latent layers
        layers = decoding.latent_layers
        return cls(decoding.depth if layers is None else 1 + len(layers), layers, final_entropy, support, most)

    @classmethod
    def from_environment(cls) -> "EngineOptions":
        depth = os.environ.get(DEPTH_VARIABLE, "0")
        layers = os.environ.get(LAYERS_VARIABLE, "")
        most = os.environ.get(MAX_K_VARIABLE, str(MAX_K))
        try:
            options = cls(
                int(depth),
                tuple(int(layer) for layer in layers.split(",")) if layers else None,
                os.environ.get(ENTROPY_VARIABLE, "0") == "1",
                os.environ.get(SUPPORT_VARIABLE, "0") == "1",
                int(most),
                os.environ.get(EXPLORED_VARIABLE, "0") == "1",
            )
        except ValueError as error:
            raise ValueError(
                f"{DEPTH_VARIABLE} must be an integer >= 0, {LAYERS_VARIABLE} a comma-separated list of layers and "
                f"{MAX_K_VARIABLE} an integer >= 1; got {depth!r}, {layers!r} and {most!r}"
            ) from error
        if options.depth < 0:
            raise ValueError(f"{DEPTH_VARIABLE} must be an integer >= 0, got {depth!r}")
        if options.max_k < 1:
            raise ValueError(f"{MAX_K_VARIABLE} must be an integer >= 1, got {most!r}")
        return options

    def to_environment(self) -> dict[str, str]:
        return {
            DEPTH_VARIABLE: str(self.depth),
            LAYERS_VARIABLE: ",".join(map(str, self.latent_layers)) if self.latent_layers else "",
            ENTROPY_VARIABLE: str(int(self.final_entropy)),
            SUPPORT_VARIABLE: str(int(self.support)),
            MAX_K_VARIABLE: str(self.max_k),
            EXPLORED_VARIABLE: str(int(self.explored)),
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


DEFAULT_VARIABLE = "LED_RL_DEFAULT"
