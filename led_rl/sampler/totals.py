"""Sums over all rows that an engine drew."""

from led_rl.sampler.columns import named_statistics
from led_rl.sampler.request_slots import DecodingSlots


class Totals:
    """Sums over all rows drawn so far, or since the last reset."""

    def __init__(self, slots: DecodingSlots):
        self._slots = slots
        self._baseline = [0.0] * slots.sums.shape[1]

    def __call__(self, reset: bool = False) -> dict[str, float]:
        """Synchronises with the device.

        `rows` drawn; `explored`, of those, from the latent branch (a marginal draw counts its probability 1 - max p_L);
        `confidence` (max p_L); `read`: rows whose latent layers were read; `entropy_mu` in nats of what the token was
        drawn from (mu, or the coin's branch); `entropy_final` of the final layer over the whole vocabulary, if the
        engine counts it; `undrawable`: rows whose logits were no distribution (final_layer.py); `cold_stops` of Soft
        Thinking; `depth_j` of `read`: rows that aggregate j latent layers.
        """
        self._slots.settle()
        sums = (self._slots.retired + self._slots.sums.sum(0)).tolist()
        values = [now - before for now, before in zip(sums, self._baseline, strict=True)]
        if reset:
            self._baseline = sums
        return named_statistics(values)
