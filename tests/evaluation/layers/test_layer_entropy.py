"""Layer entropies against a per-token loop in float64 that shares no code with the batched computation."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen3Config

from led_rl.evaluation.layers.entropy import entropy_change, layer_entropies, recorded_sequences

VOCAB, LAYERS = 37, 3
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.4, "pad_token_id": 0,
}  # fmt: skip


def tiny_model(config_class=Qwen3Config, **changes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_class(**(SHAPE | changes)), dtype=torch.float64).eval()


def random_sequences(count, seed=0):
    """(prompt, completion) pairs and their thinking masks."""
    generator = np.random.default_rng(seed)
    sequences, masks = [], []
    while len(sequences) < count:
        prompt, completion = (generator.integers(3, VOCAB, generator.integers(1, 9)).tolist() for _ in range(2))
        mask = (generator.random(len(completion)) < 0.7).tolist()
        if any(mask):
            sequences.append((prompt, completion))
            masks.append(mask)
    return sequences, masks


def naive_entropies(model, sequence, mask, temperature, latent_norm):
    """(thinking tokens, layers + 1): one forward pass per token, hooks instead of `output_hidden_states`."""
    rows = []
    for t, thought in enumerate(mask):
        if not thought:
            continue
        states = []
        hooks = [model.model.embed_tokens.register_forward_hook(lambda *a, states=states: states.append(a[2][0, -1]))]
        for layer in model.model.layers:
            hooks.append(
                layer.register_forward_hook(
                    lambda *a, states=states: states.append((a[2][0] if isinstance(a[2], tuple) else a[2])[0, -1])
                )
            )
        with torch.no_grad():
            model(torch.tensor([sequence[0] + sequence[1][:t]]))
        for hook in hooks:
            hook.remove()
        row = []
        for layer, state in enumerate(states):
            if latent_norm or layer == LAYERS:
                state = model.model.norm(state)
            logits = [float(value) / temperature for value in model.lm_head.weight.detach() @ state.detach()]
            top = max(logits)
            weights = [math.exp(value - top) for value in logits]
            shares = [weight / sum(weights) for weight in weights]
            row.append(-sum(share * math.log(share) for share in shares if share > 0) / math.log(VOCAB))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("config_class", [Qwen3Config, LlamaConfig])
@pytest.mark.parametrize(("temperature", "latent_norm"), [(1.0, False), (0.6, False), (1.3, True)])
def test_entropies_equal_a_per_token_loop(config_class, temperature, latent_norm):
    model, (sequences, masks) = tiny_model(config_class), random_sequences(7)
    result = layer_entropies(model, sequences, masks, temperature, latent_norm=latent_norm, batch_size=3)
    naive = [naive_entropies(model, *pair, temperature, latent_norm) for pair in zip(sequences, masks, strict=True)]
    tokens = np.concatenate(naive)
    np.testing.assert_allclose(result.mean, tokens.mean(0), atol=1e-9)
    assert (result.tokens, result.sequences) == (len(tokens), len(sequences))
    assert len(result.mean) == LAYERS + 1
    mean, n = tokens.mean(0), len(naive)
    squares = sum((rows.sum(0) - len(rows) * mean) ** 2 for rows in naive)
    np.testing.assert_allclose(result.standard_error, np.sqrt(n / (n - 1) * squares) / len(tokens), atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batching_and_order_do_not_matter(batch_size, monkeypatch):
    model, (sequences, masks) = tiny_model(), random_sequences(9)
    reference = layer_entropies(model, sequences, masks, batch_size=2)
    monkeypatch.setattr("led_rl.evaluation.layers.entropy._LOGITS_AT_ONCE", VOCAB * 5)
    result = layer_entropies(model, sequences[::-1], masks[::-1], batch_size=batch_size)
    np.testing.assert_allclose(result.mean, reference.mean, atol=1e-9)
    np.testing.assert_allclose(result.standard_error, reference.standard_error, atol=1e-9)


def test_bounds_uniform_is_one_and_certain_is_zero():
    model, (sequences, masks) = tiny_model(), random_sequences(4)
    hot = layer_entropies(model, sequences, masks, temperature=1e9)
    np.testing.assert_allclose(hot.mean, 1, atol=1e-6)
    cold = layer_entropies(model, sequences, masks, temperature=1e-4)
    assert max(cold.mean) < 0.05
    assert min(cold.mean) >= 0


def test_half_precision_stays_close():
    model, (sequences, masks) = tiny_model(), random_sequences(4)
    exact = layer_entropies(model, sequences, masks)
    rounded = layer_entropies(model.bfloat16(), sequences, masks)
    np.testing.assert_allclose(rounded.mean, exact.mean, atol=0.03)


def test_standard_errors_match_the_spread_between_halves():
    """One half of the sequences against the other, over 12 splits: differences of about one standard error."""
    model, (sequences, masks) = tiny_model(), random_sequences(120, seed=3)
    ratios = []
    for seed in range(12):
        halves = np.split(np.random.default_rng(seed).permutation(120), 2)
        a, b = (
            layer_entropies(model, [sequences[i] for i in half], [masks[i] for i in half], batch_size=60)
            for half in halves
        )
        ratios.append((a.mean[-1] - b.mean[-1]) / math.hypot(a.standard_error[-1], b.standard_error[-1]))
    assert 0.5 < np.sqrt(np.mean(np.square(ratios))) < 1.6


def test_one_sequence_has_no_standard_error_and_none_is_an_error():
    model = tiny_model()
    single = layer_entropies(model, [([3, 4], [5, 6]), ([3], [5])], [[True, True], [False]])
    assert single.sequences == 1
    assert all(math.isnan(error) for error in single.standard_error)
    with pytest.raises(ValueError, match="no sequence holds a thinking token"):
        layer_entropies(model, [([3], [5])], [[False]])
    with pytest.raises(ValueError, match="temperature must be positive"):
        layer_entropies(model, *random_sequences(2), temperature=0)


def test_changes_are_paired_by_sequence():
    before, after = tiny_model(), tiny_model()
    with torch.no_grad():
        after.lm_head.weight.mul_(1.05)
    sequences, masks = random_sequences(20)
    a, b = (layer_entropies(model, sequences, masks) for model in (before, after))
    change, error = entropy_change(a, b)
    np.testing.assert_allclose(change[:-1], np.array(b.mean) - np.array(a.mean))
    assert change[-1] == pytest.approx(change[1:-2].mean())
    assert (error[:-1] < 0.5 * np.hypot(a.standard_error, b.standard_error)).all()
    assert 0 < error[-1] <= error[1:-2].max()  # of an average of layers
    with pytest.raises(ValueError, match="same sequences"):
        entropy_change(a, layer_entropies(after, sequences[1:], masks[1:]))


def test_a_model_with_capped_logits_is_read_with_the_cap():
    model = tiny_model(Gemma2Config, final_logit_softcapping=1e-6)
    np.testing.assert_allclose(layer_entropies(model, *random_sequences(2)).mean, 1, atol=1e-9)


def test_sequences_come_from_the_records_of_an_evaluation():
    def row(arm, thinking):
        kept = [{"token_ids": [7, 8], "thinking": thinking}]
        return {"kind": "problem", "checkpoint": "base", "arm": arm, "prompt_ids": [1, 2], "kept": kept}

    records = [row("standard", "10"), row("led", "11"), row("standard", "00"), row("standard", "11"), {"kind": "chunk"}]
    sequences, masks = recorded_sequences(records, "base", "standard")
    assert sequences == [([1, 2], [7, 8])] * 2
    assert masks == [[True, False], [True, True]]
    assert recorded_sequences(records, "base", "standard", limit=1) == (sequences[:1], masks[:1])
