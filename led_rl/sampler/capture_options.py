"""What an engine captures for LED: fixed when it is built, and told to its processes through the environment."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from led_rl.decoding import DecodingError, DecodingParams
from led_rl.methods.properties import PROPERTIES

DEPTH_VARIABLE = "LED_RL_DEPTH"
LAYERS_VARIABLE = "LED_RL_LATENT_LAYERS"
ENTROPY_VARIABLE = "LED_RL_FINAL_ENTROPY"
SUPPORT_VARIABLE = "LED_RL_SUPPORT"
MAX_K_VARIABLE = "LED_RL_MAX_K"
EXPLORED_VARIABLE = "LED_RL_EXPLORED"
BASELINES_VARIABLE = "LED_RL_BASELINES"
MAX_K = 128
HOOKED = tuple(name for name, properties in PROPERTIES.items() if properties.changes_forward)


@dataclass(frozen=True)
class EngineOptions:
    """What the engine captures for LED; set once, before the engine is built. Depth 0: LED is off.

    `final_entropy` also counts the final layer's entropy over the whole vocabulary: one more pass over the logits.
    `support`: each output says which ids every token could have been (support.py), for training.
    `explored`: each output says which tokens came from latent layers, and no more than that.
    `baselines`: other decodings to admit, by a word each. `dola_low`, `dola_high`, `dola=L+L+...` (explicit layers) and
    `near_final` (`near_final=M` for another number than 10) capture the layers that they read; `soft_thinking`,
    `soft_thinking_gumbel` and `latent_noise` bring the hooks into the forward pass that they need.
    `max_k`: the most candidates that a request may ask for. All rows of a step are computed at its largest k.
    """

    depth: int = 0
    latent_layers: tuple[int, ...] | None = None
    final_entropy: bool = False
    support: bool = False
    max_k: int = MAX_K
    explored: bool = False
    baselines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.baselines and self.depth == 0:
            object.__setattr__(self, "depth", 1)

    @classmethod
    def for_decoding(
        cls, decoding: DecodingParams, final_entropy: bool = False, support: bool = False
    ) -> "EngineOptions":
        """What an engine must capture for requests of this decoding, and no more."""
        if decoding.is_standard:
            return cls(1, None, False, True) if support else cls()
        most = max(MAX_K, decoding.k)
        if not decoding.properties.own_keys and not decoding.reads_latents:
            return cls(1, None, final_entropy, support, most)  # LED's sampler, but no latent layers
        if not decoding.reads_depth:
            return cls(1, None, final_entropy, support, most, baselines=admitting([decoding]))
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
                tuple(word.strip() for word in os.environ.get(BASELINES_VARIABLE, "").split(",") if word.strip()),
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
            BASELINES_VARIABLE: ",".join(self.baselines),
        }

    def admits(self, decoding: str) -> bool:
        """Whether the engine was built for a decoding that changes the forward pass."""
        return decoding in self.baselines

    def captured_layers(self, num_layers: int, tied: bool = False) -> tuple[int, ...]:
        """Latent layers the engine captures: those of LED, deepest first, then what the baselines read besides.

        `tied`: the model's LM head is its embedding.
        """
        layers = self._layers_of_led(num_layers)
        for word in self.baselines:
            layers += tuple(layer for layer in layers_of(word, num_layers, tied) if layer not in layers)
        return layers

    def _layers_of_led(self, num_layers: int) -> tuple[int, ...]:
        if self.latent_layers is not None:  # depth is then no more than the switch
            if outside := [layer for layer in self.latent_layers if not 0 <= layer < num_layers]:
                raise ValueError(f"{LAYERS_VARIABLE} names {outside}, but the model has layers 0 to {num_layers - 1}")
            return tuple(sorted(set(self.latent_layers), reverse=True))
        if self.depth > num_layers:
            raise ValueError(f"{DEPTH_VARIABLE}={self.depth} is more than the model's {num_layers} layers")
        return tuple(range(num_layers - 1, num_layers - self.depth, -1))


def admitting(decodings: Iterable[DecodingParams]) -> tuple[str, ...]:
    """The `baselines` of an engine that admits all of these decodings; LED's own layers are not among them."""
    words: list[str] = []
    for decoding in decodings:
        if decoding.decoding == "dola":
            layers = decoding.dola_layers
            words.append(f"dola_{layers}" if isinstance(layers, str) else f"dola={'+'.join(map(str, layers))}")
        elif decoding.decoding == "near_final":
            words.append(f"near_final={decoding.near_final_layers}")
        elif decoding.properties.changes_forward:
            words.append(decoding.decoding)
    return tuple(dict.fromkeys(words))


def layers_of(word: str, num_layers: int, tied: bool) -> tuple[int, ...]:
    """Latent layers that a word of `baselines` captures.

    Raises:
        DecodingError: the word is not one of them, or names layers that the model lacks.
    """
    name, equals, value = word.partition("=")
    if name in HOOKED and not equals:
        return ()
    keys: dict[str, Any] = {}
    if name == "near_final" and (value.isdecimal() or not equals):
        keys = {"near_final_layers": int(value)} if equals else {}
    elif name in ("dola_low", "dola_high") and not equals:
        name, _, keys["dola_layers"] = name.partition("_")
    elif name == "dola" and all(number.isdecimal() for number in value.split("+")):
        keys["dola_layers"] = tuple(map(int, value.split("+")))
    else:
        allowed = f"dola_low, dola_high, dola=L+L+..., near_final, near_final=M, {', '.join(HOOKED)}"
        raise DecodingError(f"{BASELINES_VARIABLE} must be of {allowed}, separated by commas; got {word!r}")
    return DecodingParams(name, **keys).layers(num_layers, tied)


DEFAULT_VARIABLE = "LED_RL_DEFAULT"
