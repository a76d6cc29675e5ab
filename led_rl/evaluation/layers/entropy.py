"""Entropy of every layer's next-token posterior over thinking tokens: the picture that LED starts from.

With L layers, h_l the residual stream after l layers, W the LM head, N the final norm and T the temperature, layer l's
posterior is softmax(W h_l / T), or softmax(W N(h_l) / T) with `latent_norm`; the final layer always has N. Entropies
are divided by log V, so 1 is uniform. To compare checkpoints, read them all on the same sequences.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from led_rl.evaluation.estimates import Floats
from led_rl.evaluation.layers.reader import LayerReader
from led_rl.evaluation.rows import Record

_LOGITS_AT_ONCE = 1 << 24


Tokens = Sequence[int]


@dataclass(frozen=True)
class LayerEntropies:
    """Mean normalised entropy of each layer's posterior over thinking tokens."""

    mean: list[float]  # (layers + 1,) the embeddings first, the final layer last
    standard_error: list[float]  # (layers + 1,) over sequences, whose tokens depend on each other; NaN for one
    tokens: int
    sequences: int
    sums: list[list[float]] = field(default_factory=list)  # (sequences, layers + 1) summed over thinking tokens
    counts: list[int] = field(default_factory=list)  # (sequences,) thinking tokens


def recorded_sequences(
    records: Iterable[Record], checkpoint: str, arm: str, limit: int | None = None
) -> tuple[list[tuple[Tokens, Tokens]], list[list[bool]]]:
    """The first `limit` kept completions that thought at all, of one checkpoint and arm of an evaluation.

    Returns:
        (prompt, completion) token ids, and the completions' thinking masks.
    """
    found = [
        ((row["prompt_ids"], kept["token_ids"]), [flag == "1" for flag in kept["thinking"]])
        for row in records
        if row["kind"] == "problem" and (row["checkpoint"], row["arm"]) == (checkpoint, arm)
        for kept in row["kept"]
        if "1" in kept["thinking"]
    ]
    found = found[:limit]
    return [sequence for sequence, _ in found], [mask for _, mask in found]


@torch.no_grad()
def layer_entropies(
    model: Any,
    sequences: Sequence[tuple[Tokens, Tokens]],
    thinking_masks: Sequence[Sequence[bool]],
    temperature: float = 1.0,
    *,
    latent_norm: bool = False,
    batch_size: int = 16,
) -> LayerEntropies:
    """Entropies of each layer's posterior at the positions from which the thinking tokens are drawn.

    The mean is over tokens; its standard error is that of a ratio over sequences (clustered).

    Args:
        model: a causal LM of transformers, in evaluation mode.
        sequences: (prompt, completion) token ids; prompts hold at least one token.
        thinking_masks: for each sequence, which completion tokens were thought.

    Raises:
        ValueError: no thinking token, or a temperature that is not positive.
        UnreadableModelError: a model whose logits are not its head applied to its last hidden state.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    rows = [
        _Row([*prompt, *completion], [False] * (len(prompt) - 1) + list(mask))
        for (prompt, completion), mask in zip(sequences, thinking_masks, strict=True)
        if any(mask)
    ]
    if not rows:
        raise ValueError("no sequence holds a thinking token")
    reader = LayerReader(model)
    rows.sort(key=lambda row: len(row.tokens))  # little padding
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    totals = np.concatenate([_sums_over_tokens(reader, batch, temperature, latent_norm) for batch in batches])
    tokens = np.array([sum(row.read) for row in rows], dtype=float)  # (sequences,)
    mean, error = _ratio_of_sums(totals, tokens)
    counts = tokens.astype(int).tolist()
    return LayerEntropies(mean.tolist(), error.tolist(), sum(counts), len(rows), totals.tolist(), counts)


def entropy_change(before: LayerEntropies, after: LayerEntropies) -> tuple[Floats, Floats]:
    """Mean change of each layer's entropy and its standard error, paired by sequence.

    Returns:
        (layers + 2,) each: the layers', then the mean change of the layers between embeddings and final layer (NaN if
        there is none).

    Raises:
        ValueError: the two were not read on the same sequences, or their models differ in layers.
    """
    if before.counts != after.counts or len(before.mean) != len(after.mean):
        raise ValueError("layer entropies are compared on the same sequences, in models with equally many layers")
    changes = np.array(after.sums) - np.array(before.sums)  # (sequences, layers + 1)
    if changes.shape[1] > 2:
        between = changes[:, 1:-1].mean(axis=1, keepdims=True)
    else:
        between = np.full((len(changes), 1), math.nan)
    return _ratio_of_sums(np.hstack([changes, between]), np.array(after.counts, dtype=float))


def _ratio_of_sums(totals: Floats, tokens: Floats) -> tuple[Floats, Floats]:
    """Mean per token and its standard error over sequences: (sequences, columns), (sequences,) -> (columns,) each."""
    mean = totals.sum(0) / tokens.sum()
    n = len(tokens)
    residuals = totals - mean * tokens[:, None]
    correction = n / (n - 1) if n > 1 else math.nan
    return mean, np.sqrt(correction * (residuals**2).sum(0)) / tokens.sum()


@dataclass(frozen=True)
class _Row:
    tokens: list[int]  # prompt and completion
    read: list[bool]  # positions whose posterior a thinking token is drawn from; the last token's is not read


def _sums_over_tokens(reader: LayerReader, batch: list[_Row], temperature: float, latent_norm: bool) -> Floats:
    """Each layer's entropy summed over the thinking tokens of each sequence: (rows, layers + 1)."""
    longest = max(len(row.tokens) for row in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)  # (rows, positions) padded on the right
    mask = torch.zeros_like(ids)
    read = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(batch):
        ids[i, : len(row.tokens)] = torch.tensor(row.tokens)
        mask[i, : len(row.tokens)] = 1
        read[i, : len(row.read)] = torch.tensor(row.read)
    device = reader.device
    output = reader.model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        output_hidden_states=True,
        use_cache=False,
        logits_to_keep=1,
    )
    states = output.hidden_states  # layers + 1 of (rows, positions, hidden); the last one already normed
    owners = read.nonzero()[:, 0]  # (tokens,) the row of each thinking token
    per_layer = []
    for layer, state in enumerate(states):
        chosen = state[read.to(device)]  # (tokens, hidden)
        if latent_norm and layer < len(states) - 1:
            chosen = reader.norm(chosen)
        entropies = normalised_entropies(reader, chosen, temperature).cpu().double()
        per_layer.append(torch.zeros(len(batch), dtype=torch.float64).index_add_(0, owners, entropies))
    return torch.stack(per_layer, dim=1).numpy()


def normalised_entropies(reader: LayerReader, states: Tensor, temperature: float) -> Tensor:
    """Entropy of softmax(logits of states / temperature) over log V; (tokens, hidden) -> (tokens,)."""
    vocab = reader.vocabulary
    blocks = []
    for block in states.split(max(1, _LOGITS_AT_ONCE // vocab)):
        logits = reader.logits(block) / temperature  # (block, vocab)
        log_probabilities = torch.log_softmax(logits, dim=-1)
        blocks.append(torch.special.entr(log_probabilities.exp()).sum(-1) / math.log(vocab))
    return torch.cat(blocks)
