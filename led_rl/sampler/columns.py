"""Columns and codes of the tables that the draws on CPU and GPU share."""

from collections.abc import Sequence

from led_rl.methods.properties import DECODINGS

# Columns of the settings table. The NUMBERS columns from NUMBER on hold the decoding's own numbers, as bits of float64;
# those from ORDER on each row's latent layers, as indices into the captured.
KNOWN, DECODING, DEPTH, K, EXPLOIT, COIN, AGGREGATION, NORMED, GREEDY, KEY, NUMBER = range(11)
NUMBERS = 4
ORDER = NUMBER + NUMBERS
NEVER, ALWAYS = 0, 1  # states of rows that never, and always, decode as their request asks
# Columns of each slot's sums; the columns from DEPTHS on count rows by the number of latent layers they aggregated.
ROWS, EXPLORED, CONFIDENCE, ENTROPY, UNDRAWABLE, ENTROPY_FINAL, COLD_STOPS, DEPTHS = range(8)
MEAN_ALL, MAX_ENTROPY_LAYER, PRODUCT = 1, 2, 3  # codes of AGGREGATIONS; 0 is the cumulative sum
LED = DECODINGS.index("led")
LARGEST_UNIFORM = 1 - 2.0**-52
STATISTICS = ("rows", "explored", "confidence", "entropy_mu", "undrawable", "entropy_final", "cold_stops")


def named_statistics(values: Sequence[float]) -> dict[str, float]:
    """Names of a row of `DecodingSlots.sums`; `read` is the sum of the depths."""
    depths = values[len(STATISTICS) :]
    return {
        **dict(zip(STATISTICS, values, strict=False)),
        "read": sum(depths),
        **{f"depth_{j}": count for j, count in enumerate(depths)},
    }
