"""The recipe keys of the other decodings (docs/decodings.md), and which decodings cannot train."""

from dataclasses import dataclass, field
from typing import Any

from led_rl.methods.properties import PROPERTIES, owners

CANNOT_TRAIN = (
    "decoding: {decoding!r} cannot train: while it thinks, the model reads a mix of token embeddings, so that no token "
    "was drawn and none has a log-probability, without which there is neither a loss nor an importance ratio. "
    "Allowed: {allowed}. Evaluate with it instead (eval_decodings, led-rl evaluate)"
)
NOT_REPRODUCED = (
    "decoding: {decoding!r} cannot train: its policy depends on the noise of the engine's forward passes, which the "
    "trainer's own pass lacks, so that loss and importance ratio would be of another policy. "
    "Allowed: {allowed}. Evaluate with it instead (eval_decodings, led-rl evaluate)"
)


@dataclass
class BaselineKeys:
    """Parameters of `dola` and `near_final`, which can train, and of `latent_noise`, for `eval_decodings`."""

    led_dola_layers: str = field(
        default="low", metadata={"help": "DoLa's premature layers: low, high, or numbers of layers, as in 3,5,7."}
    )
    led_dola_relative_top: float = field(
        default=0.1, metadata={"help": "DoLa draws tokens of at least this share of the largest probability."}
    )
    led_near_final_layers: int = field(
        default=10, metadata={"help": "How many layers near_final goes back from the final one at most."}
    )
    led_noise_layers: list[int] | None = field(
        default=None, metadata={"help": "Layers that latent_noise disturbs; default: the middle third."}
    )
    led_noise_scale: float = field(default=0.1, metadata={"help": "Scale of latent_noise at confidence 0."})

    def own_values(self, decoding: str) -> dict[str, Any]:
        """What these keys give DecodingParams: those of `decoding`, and those that no decoding of the run has."""
        in_use = {decoding, *(getattr(self, "eval_decodings", None) or ()), getattr(self, "decoding", decoding)}
        values: dict[str, Any] = {
            "dola_layers": _layers(self.led_dola_layers),
            "dola_relative_top": self.led_dola_relative_top,
            "near_final_layers": self.led_near_final_layers,
            "noise_layers": None if self.led_noise_layers is None else tuple(self.led_noise_layers),
            "noise_scale": self.led_noise_scale,
        }
        return {key: v for key, v in values.items() if decoding in owners(key) or not in_use & set(owners(key))}


def _layers(text: str) -> str | tuple[int, ...]:
    """`low`, `high`, or numbers between commas."""
    words = [word.strip() for word in str(text).split(",")]
    return tuple(map(int, words)) if all(word.isdecimal() for word in words) else text


def check_trains(decoding: str) -> None:
    """Raises ValueError with the reason if a decoding cannot train."""
    allowed = [name for name, found in PROPERTIES.items() if found.has_log_probability and found.is_reproduced]
    if decoding not in allowed:
        reason = NOT_REPRODUCED if PROPERTIES[decoding].has_log_probability else CANNOT_TRAIN
        raise ValueError(reason.format(decoding=decoding, allowed=", ".join(allowed)))
