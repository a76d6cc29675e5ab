"""How a request wants its tokens drawn: validated once, and the flat dict in which it travels with the request.

vLLM carries `SamplingParams.extra_args` from client to sampler; over HTTP only flat scalars and lists (`vllm_xargs`)
get through, so every parameter is one flat key that starts with `led`.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from led_rl.methods.premature_layers import BUCKETS, bucket
from led_rl.methods.properties import DECODINGS, PROPERTIES, Properties, owners
from led_rl.thinking import END, START, MissingMarkersError, ThinkMarkers, Tokenizer

PREFIX = "led"
DRAWS = ("coin", "marginal")
AGGREGATIONS = ("cumulative_sum", "mean_all", "max_entropy_layer", "product")
THINK_STARTS = ("prompt", "marker")
MARKER_LENGTH = 64
OWN_KEYS = tuple(dict.fromkeys(key for properties in PROPERTIES.values() for key in properties.own_keys))
LARGEST_NUMBER, LEAST_TEMPERATURE = 1e6, 1e-3  # of request keys that are no integers
LARGEST_INTEGER = 2**31 - 1  # of any request key; an engine bounds k and token ids further


class UserError(ValueError):
    """What a user asked for cannot be done. The message is one line that names it; commands print it and end with 2."""


class DecodingError(UserError):
    """A decoding parameter that is unknown, of the wrong type, or out of range."""


@dataclass(frozen=True)
class DecodingParams:
    """Decoding of one request.

    Attributes:
        decoding: `standard` (the engine's own sampling), `led`, or one of the others that docs/decodings.md defines.
        depth: layers read, final layer included (d in the paper); 1 is the final layer alone.
        k: candidates: the final layer's k most probable tokens (`near_final`: the chosen layer's). None becomes the
            decoding's own: 64 with `dola`, 20 with `near_final`, otherwise 8.
        latent_layers: explicit latent layers, in the order of aggregation, by the number of transformer layers that the
            residual stream has passed (`hidden_states[l]` of transformers); None means L-1, L-2, ... L-depth+1.
        latent_norm: apply the model's final norm to latent states before the LM head.
        exploit: mix in the final layer with weight max p_L; False always explores (ablation).
        draw: `coin` draws first whether the row explores, reads latent layers only if it does, and reports the
            log-probability given that branch; `marginal` draws once from mu and reports log mu. Both follow mu.
        aggregation: how latent layers join the final one (led_rl/led.py); `cumulative_sum` is the paper's.
        think_only: explore only between the think markers; False explores to the end.
        think_start: with no think marker in the prompt, `prompt` thinks from the first generated token on (as in the
            paper), `marker` waits until the model opens the think part itself.
        start_marker: what opens the think part: text that the tokenizer turns into one token or several, or token ids.
        end_marker: what closes it, likewise.
        dola_layers: premature layers that `dola` chooses from: the bucket `low` or `high`, or a list of layers.
        dola_relative_top: `dola` draws tokens of at least this share of the most probable one's probability.
        near_final_layers: how many layers below the final one `near_final` goes back at most.
        soft_top_k: tokens whose embeddings `soft_thinking` mixes.
        soft_cold_stop_entropy: nats; steps of `soft_thinking` below it are confident.
        soft_cold_stop_length: so many confident steps in a row end its thought; 0 never does.
        gumbel_temperature: of the Gumbel-softmax weights of `soft_thinking_gumbel`.
        noise_layers: layers whose output `latent_noise` disturbs; None means the middle third.
        noise_scale: standard deviation of the noise at confidence 0, as a share of the state's root mean square.
    """

    decoding: str = "standard"
    depth: int = 8
    k: int = None  # type: ignore[assignment]
    latent_layers: tuple[int, ...] | None = None
    latent_norm: bool = False
    exploit: bool = True
    draw: str = "coin"
    aggregation: str = "cumulative_sum"
    think_only: bool = True
    think_start: str = "prompt"
    start_marker: str | tuple[int, ...] = START
    end_marker: str | tuple[int, ...] = END
    dola_layers: str | tuple[int, ...] = "low"
    dola_relative_top: float = 0.1
    near_final_layers: int = 10
    soft_top_k: int = 10
    soft_cold_stop_entropy: float = 0.01
    soft_cold_stop_length: int = 256
    gumbel_temperature: float = 0.5
    noise_layers: tuple[int, ...] | None = None
    noise_scale: float = 0.1

    def __post_init__(self) -> None:
        _one_of("decoding", self.decoding, DECODINGS)
        _one_of("draw", self.draw, DRAWS)
        _one_of("aggregation", self.aggregation, AGGREGATIONS)
        _one_of("think_start", self.think_start, THINK_STARTS)
        _integer("depth", self.depth, 1)
        if self.k is None:
            object.__setattr__(self, "k", self.properties.candidates)
        _integer("k", self.k, 1)
        for name in ("latent_norm", "exploit", "think_only"):
            value = getattr(self, name)
            if value in (0, 1):  # a flat request key may carry a bool as a number
                object.__setattr__(self, name, bool(value))
            else:
                raise DecodingError(f"{PREFIX}_{name} must be true or false, got {value!r}")
        self._check_own_keys()
        for name in ("latent_layers", "dola_layers", "noise_layers"):
            given = getattr(self, name)
            if given is None or (isinstance(given, str) and name == "dola_layers"):
                continue
            layers = _integers(name, given)
            if len(set(layers)) != len(layers):
                raise DecodingError(f"{PREFIX}_{name} must not repeat a layer, got {list(layers)}")
            object.__setattr__(self, name, layers)
        for name in ("start_marker", "end_marker"):
            marker = getattr(self, name)
            if not marker or (hasattr(marker, "__len__") and len(marker) > MARKER_LENGTH):
                raise DecodingError(
                    f"{PREFIX}_{name} must be 1 to {MARKER_LENGTH} characters or token ids, got {marker!r}"
                )
            if not isinstance(marker, str):
                object.__setattr__(self, name, _integers(name, marker))
        if self.start_marker == self.end_marker:
            raise DecodingError(
                f"{PREFIX}_start_marker and {PREFIX}_end_marker must differ, got {self.start_marker!r} for both: "
                "thinking would never end"
            )

    def _check_own_keys(self) -> None:
        """Checks the keys of single decodings, and that no other decoding was given them."""
        for key in OWN_KEYS:
            names = owners(key)
            if self.decoding not in names and getattr(self, key) != type(self).__dataclass_fields__[key].default:
                raise DecodingError(f"{PREFIX}_{key} belongs to {', '.join(names)}; the decoding is {self.decoding!r}")
        if isinstance(self.dola_layers, str):
            _one_of("dola_layers", self.dola_layers, BUCKETS, " or a list of layers")
        elif not _integers("dola_layers", self.dola_layers):
            raise DecodingError(f"{PREFIX}_dola_layers must name at least one layer, got {self.dola_layers!r}")
        _number(self, "dola_relative_top", 0, 1)
        _integer("near_final_layers", self.near_final_layers, 1)
        _integer("soft_top_k", self.soft_top_k, 1)
        _number(self, "soft_cold_stop_entropy", 0, LARGEST_NUMBER)
        _integer("soft_cold_stop_length", self.soft_cold_stop_length, 0)
        _number(self, "gumbel_temperature", LEAST_TEMPERATURE, LARGEST_NUMBER)
        _number(self, "noise_scale", 0, LARGEST_NUMBER)

    @property
    def properties(self) -> Properties:
        return PROPERTIES[self.decoding]

    @property
    def is_standard(self) -> bool:
        return self.decoding == "standard"

    @property
    def reads_latents(self) -> bool:
        return self.properties.reads_latents

    @property
    def reads_depth(self) -> bool:
        """Whether `depth` or `latent_layers` say which layers it reads."""
        return self.reads_latents and not self.properties.own_keys

    @property
    def normed(self) -> bool:
        """Whether latent states go through the final norm before the LM head."""
        return self.latent_norm or self.properties.final_norm

    def layers(self, num_layers: int, tied: bool = False) -> tuple[int, ...]:
        """Latent layers in the order of the method, for a model of `num_layers` layers; raises if it has too few.

        `tied`: the model's LM head is its embedding (`tie_word_embeddings`).
        """
        if not self.reads_latents:
            return ()
        if self.decoding == "near_final":
            return tuple(range(num_layers - 1, max(num_layers - 1 - self.near_final_layers, 0), -1))
        if self.decoding == "dola":
            return self._premature_layers(num_layers, tied)
        layers = self.latent_layers
        if layers is None:
            if self.depth > num_layers:
                raise DecodingError(
                    f"{PREFIX}_depth={self.depth} reads {self.depth} layers, but the model has {num_layers}; "
                    f"allowed: 1 to {num_layers}"
                )
            layers = tuple(range(num_layers - 1, num_layers - self.depth, -1))
        return _within("latent_layers", layers, num_layers)

    def _premature_layers(self, num_layers: int, tied: bool) -> tuple[int, ...]:
        if not isinstance(self.dola_layers, str):
            return _within("dola_layers", self.dola_layers, num_layers)
        layers = bucket(self.dola_layers, num_layers, tied)
        if not layers:
            raise DecodingError(
                f"{PREFIX}_dola_layers={self.dola_layers} has no layer in a model of {num_layers} layers whose "
                "embeddings are tied; name a list of layers"
            )
        return layers

    def markers(self, tokenizer: Any) -> ThinkMarkers:
        """The think markers as a tokenizer spells them. Raises MissingMarkersError where it cannot."""
        size = 0 if tokenizer is None else len(tokenizer)
        return _spelled(tokenizer, size, self.start_marker, self.end_marker)

    def to_extra_args(self) -> dict[str, Any]:
        """The request's `extra_args` / `vllm_xargs`; empty for standard decoding.

        The depth is always named: without it a request takes the engine's.
        """
        if self.is_standard:
            return {}
        default = DecodingParams(decoding=self.decoding)
        extra_args: dict[str, Any] = {f"{PREFIX}_decoding": self.decoding}
        if self.reads_depth and self.latent_layers is None:
            extra_args[f"{PREFIX}_depth"] = self.depth
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if value != getattr(default, name):
                extra_args[f"{PREFIX}_{name}"] = list(value) if isinstance(value, tuple) else value
        return extra_args

    @classmethod
    def from_extra_args(cls, extra_args: Mapping[str, Any] | None) -> "DecodingParams":
        """Reads the `led*` keys of a request and leaves the others alone. `led: true` is short for `led_decoding: led`.

        Raises:
            DecodingError: names the key, what was given and what is allowed.
        """
        if extra_args is not None and not isinstance(extra_args, Mapping):
            raise DecodingError(f"the keys of a request must be a mapping such as {{led: true}}, got {extra_args!r}")
        known = {f"{PREFIX}_{f.name}": f.name for f in fields(cls)}
        given: dict[str, Any] = {}
        switched: dict[str, str] = {}
        for key, value in (extra_args or {}).items():
            if key == PREFIX:
                if value not in (0, 1):
                    raise DecodingError(f"led must be true or false, got {value!r}")
                switched["decoding"] = "led" if value else "standard"
            elif key in known:
                given[known[key]] = value
            elif isinstance(key, str) and key.startswith(PREFIX + "_"):
                raise DecodingError(f"unknown request key {key!r}; allowed: {', '.join([PREFIX, *known])}")
        if switched and given.get("decoding", switched["decoding"]) != switched["decoding"]:
            raise DecodingError(
                f"{PREFIX} stands for {PREFIX}_decoding: {switched['decoding']}, and {PREFIX}_decoding is "
                f"{given['decoding']!r}; leave one of them out"
            )
        given |= switched
        if "k" in given:
            _integer("k", given["k"], 1)
        if set(given) - {"decoding"} and "decoding" not in given:
            keys = ", ".join(f"{PREFIX}_{name}" for name in given)
            raise DecodingError(f"{keys} given without a decoding; add led: true or {PREFIX}_decoding")
        return cls(**given)


def _one_of(name: str, value: object, allowed: tuple[str, ...], besides: str = "") -> None:
    if value not in allowed:
        raise DecodingError(f"{PREFIX}_{name} must be one of {', '.join(allowed)}{besides}; got {value!r}")


def _integers(name: str, values: object) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise DecodingError(f"{PREFIX}_{name} must be a list of integers, got {values!r}")
    values = tuple(values)
    for value in values:
        _integer(name, value, 0)
    return values


def _within(name: str, layers: tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    if outside := [layer for layer in layers if layer >= num_layers]:
        raise DecodingError(f"{PREFIX}_{name} names {outside}, but the model's latent layers are 0 to {num_layers - 1}")
    return layers


def _integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_INTEGER:
        raise DecodingError(f"{PREFIX}_{name} must be an integer >= {least} and <= {LARGEST_INTEGER}, got {value!r}")


def _number(params: DecodingParams, name: str, least: float, most: float) -> None:
    """Checks a number of `params` and makes it a float: over HTTP 1.0 may come as 1."""
    value = getattr(params, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise DecodingError(f"{PREFIX}_{name} must be a number >= {least:g} and <= {most:g}, got {value!r}")
    object.__setattr__(params, name, float(value))


def decoding_of(extra_args: Mapping[str, Any] | None) -> DecodingParams:
    """`DecodingParams.from_extra_args`, remembered: many requests ask for the same."""
    if not extra_args:
        return STANDARD
    if not isinstance(extra_args, Mapping):
        return DecodingParams.from_extra_args(extra_args)
    keys = ((k, *_typed(v)) for k, v in extra_args.items() if isinstance(k, str) and k.startswith(PREFIX))
    try:
        return _remembered(tuple(keys))
    except TypeError:  # a value that cannot be hashed is wrong: say so
        return DecodingParams.from_extra_args(extra_args)


def _typed(value: Any) -> tuple[Any, Any]:
    """A value and its type: 1, 1.0 and true are equal, but not all of them right."""
    if isinstance(value, list | tuple):
        return tuple(value), tuple(map(type, value))
    return value, type(value)


@lru_cache(maxsize=256)
def _spelled(tokenizer: Any, size: int, start: str | tuple[int, ...], end: str | tuple[int, ...]) -> ThinkMarkers:
    """Remembered: looking for parts of a marker reads the whole vocabulary. `size`: tokens may be added to it."""
    return ThinkMarkers.from_tokenizer(tokenizer, start, end)


STANDARD = DecodingParams()


@lru_cache(maxsize=4096)
def _remembered(items: tuple[tuple[str, Hashable, Hashable], ...]) -> DecodingParams:
    return DecodingParams.from_extra_args({key: value for key, value, _ in items})


def is_tied(model_config: Any) -> bool:
    """Whether a model's LM head is its embedding."""
    return bool(getattr(model_config, "tie_word_embeddings", False))


def check_decoding(decoding: DecodingParams, model_config: Any, tokenizer: Tokenizer) -> ThinkMarkers | None:
    """The tokenizer's think markers, None if it has none and needs none.

    Raises:
        DecodingError: the model has fewer layers than the decoding reads.
        MissingMarkersError: the decoding follows the thinking phase, and the tokenizer cannot spell its markers.
    """
    text = model_config.get_text_config()
    decoding.layers(text.num_hidden_layers, is_tied(text))
    try:
        return decoding.markers(tokenizer)
    except MissingMarkersError:
        if decoding.is_standard or not decoding.think_only:
            return None
        raise
