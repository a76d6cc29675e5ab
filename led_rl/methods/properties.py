"""The decodings by name, and what each of them asks of an engine, of a trainer and of a request."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Properties:
    """What the rest of the code must know of a decoding.

    Attributes:
        reads_latents: it reads the states of latent layers, which the engine must capture.
        changes_forward: it changes what the model computes, and not only what is drawn from it; the engine must have
            been built to admit it.
        has_log_probability: every token has a log-probability under the policy it was drawn from. Without one a
            trainer cannot weigh it.
        is_reproduced: a trainer's own forward pass computes the policy that a token was drawn from.
        keeps_graphs: the engine may replay CUDA graphs while it decodes so.
        keeps_prefix_cache: what it computes for a token depends on the token ids before it alone, so that the KV cache
            of a prefix serves every request.
        final_norm: latent states go through the model's final norm, whatever `latent_norm` says.
        candidates: the request key k, where the request does not name it.
        numbers: request keys of its own that a step reads for each row, at most NUMBERS (sampler/columns.py).
        keys: further request keys that no other decoding has.
    """

    reads_latents: bool = False
    changes_forward: bool = False
    has_log_probability: bool = True
    is_reproduced: bool = True
    keeps_graphs: bool = True
    keeps_prefix_cache: bool = True
    final_norm: bool = False
    candidates: int = 8
    numbers: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def own_keys(self) -> tuple[str, ...]:
        return (*self.numbers, *self.keys)


SOFT_NUMBERS = ("soft_top_k", "soft_cold_stop_entropy", "soft_cold_stop_length")

PROPERTIES = {
    "standard": Properties(),
    "led": Properties(reads_latents=True),
    "top_k_control": Properties(),
    "led_reference": Properties(reads_latents=True),
    "dola": Properties(reads_latents=True, candidates=64, numbers=("dola_relative_top",), keys=("dola_layers",)),
    "near_final": Properties(reads_latents=True, final_norm=True, candidates=20, keys=("near_final_layers",)),
    "soft_thinking": Properties(
        changes_forward=True,
        has_log_probability=False,
        keeps_prefix_cache=False,
        numbers=SOFT_NUMBERS,
    ),
    "soft_thinking_gumbel": Properties(
        changes_forward=True,
        has_log_probability=False,
        keeps_prefix_cache=False,
        numbers=(*SOFT_NUMBERS, "gumbel_temperature"),
    ),
    "latent_noise": Properties(
        changes_forward=True,
        is_reproduced=False,
        keeps_graphs=False,
        keeps_prefix_cache=False,
        numbers=("noise_scale",),
        keys=("noise_layers",),
    ),
}
DECODINGS = tuple(PROPERTIES)


def owners(key: str) -> tuple[str, ...]:
    """The decodings that alone have a request key; none for a key that all share."""
    return tuple(name for name, properties in PROPERTIES.items() if key in properties.own_keys)
