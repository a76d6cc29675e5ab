"""Which layers DoLa contrasts the final one with: arXiv 2309.03883, as transformers' implementation settles it."""

BUCKETS = ("low", "high")
SHALLOW = 40  # layers up to which a bucket is half of the model; of a deeper one it spans 20 layers


def bucket(name: str, num_layers: int, tied: bool) -> tuple[int, ...]:
    """Latent layers of a bucket, ascending, by the number of transformer layers that the residual stream has passed.

    Every second layer of the lower or of the upper half; of more than 40 layers, of the first or the last 20.

    Args:
        name: `low` or `high`.
        tied: the LM head is the embedding: then its inputs would only give back the token fed in, and `low` starts at
            layer 2.

    Returns:
        Empty where a tied model has three layers: they leave none for `low`.
    """
    half = num_layers // 2
    if name == "high":
        return tuple(range(half if num_layers <= SHALLOW else num_layers - 20, num_layers, 2))
    start = (2 if num_layers > 2 else num_layers - 1) if tied else 0
    if start == half:
        return (start,)
    return tuple(range(start, half if num_layers <= SHALLOW else 20, 2))
