"""The analysis of layers against a per-token float64 loop on hooks, which shares no code with it."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import save_tiny_model
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPTNeoXConfig, LlamaConfig, Qwen3Config

from led_rl.cli import main
from led_rl.decoding import DecodingParams
from led_rl.evaluation.estimates import Estimate
from led_rl.evaluation.layers import analysis as analysis_module
from led_rl.evaluation.layers import reader as layer_reader
from led_rl.evaluation.layers.analysis import MEASURES, SCALARS, Thought, analyse
from led_rl.evaluation.layers.reader import LayerReader
from led_rl.evaluation.layers.verdict import as_json, judge

VOCAB, LAYERS, K, T = 37, 4, 5, 0.7
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS,
    "num_attention_heads": 2, "initializer_range": 0.4, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 1}
FAMILIES = {
    "qwen3": (Qwen3Config, GROUPED | {"head_dim": 8}, "model.layers", "model.norm", "lm_head", "model.embed_tokens"),
    "llama": (LlamaConfig, GROUPED, "model.layers", "model.norm", "lm_head", "model.embed_tokens"),
    "neox": (GPTNeoXConfig, {}, "gpt_neox.layers", "gpt_neox.final_layer_norm", "lm_head", "gpt_neox.embed_in"),
}


def tiny(name):
    config, changes = FAMILIES[name][:2]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**SHAPE, **changes), dtype=torch.float64).eval()


def thoughts(count=6, seed=0):
    generator = np.random.default_rng(seed)
    made = []
    for i in range(count):
        prompt, completion = (generator.integers(3, VOCAB, generator.integers(2, 12)).tolist() for _ in range(2))
        thinking = (generator.random(len(completion)) < 0.7).tolist()
        thinking[0] = True
        made.append(Thought(f"p{i // 2}", prompt, completion, thinking, [bool(t % 2) for t in completion]))
    return made


def softmax(logits):
    weights = [math.exp(value - max(logits)) for value in logits]
    return [weight / sum(weights) for weight in weights]


def nats(shares):
    return -sum(share * math.log(share) for share in shares if share > 0)


def token_facts(model, name, tokens):
    """Everything about the token drawn after `tokens`, by hooks and plain Python."""
    _, _, layers, norm, head, embed = FAMILIES[name]
    states = []

    def keep(_, __, output):
        states.append((output[0] if isinstance(output, tuple) else output)[0, -1].detach())

    modules = [model.get_submodule(embed), *model.get_submodule(layers)]
    hooks = [module.register_forward_hook(keep) for module in modules]
    with torch.no_grad():
        model(torch.tensor([tokens]))
    for hook in hooks:
        hook.remove()
    weight, norm = model.get_submodule(head).weight.detach(), model.get_submodule(norm)

    def posterior(layer, normed):
        state = norm(states[layer]).detach() if normed or layer == LAYERS else states[layer]
        return softmax([float(value) / T for value in weight @ state])

    final = posterior(LAYERS, True)
    top = sorted(range(VOCAB), key=lambda token: -final[token])[:K]

    def on_top(shares):
        floored = [max(shares[token], 1e-6) for token in top]
        return [share / sum(floored) for share in floored]

    rows = np.zeros((2, len(MEASURES), LAYERS + 1))
    for normed in (False, True):
        for layer in range(LAYERS + 1):
            shares = posterior(layer, normed)
            order = sorted(range(VOCAB), key=lambda token: -shares[token])
            rows[int(normed), :, layer] = [
                nats(shares) / math.log(VOCAB),
                shares[order[0]],
                shares[order[0]] + shares[order[1]],
                sum(shares[token] for token in order[:K]),
                sum(shares[token] for token in top),
                len(set(order[:K]) & set(top)) / K,
                nats(on_top(shares)),
            ]
    raw = [posterior(layer, False) for layer in range(LAYERS)]
    latent = [LAYERS - 1, LAYERS - 2]  # depth 3
    sums = [[max(final[token], 1e-6) for token in top]]
    for layer in latent:
        sums.append([a + max(raw[layer][token], 1e-6) for a, token in zip(sums[-1], top, strict=True)])
    aggregates = [[share / sum(row) for share in row] for row in sums]
    depth = max(range(3), key=lambda j: (nats(aggregates[j]), -j))
    q, b, confidence = aggregates[depth], on_top(final), final[top[0]]
    mu = [confidence * x + (1 - confidence) * y for x, y in zip(b, q, strict=True)]
    largest = max(nats(on_top(raw[layer])) for layer in latent)
    scalars = [
        nats(b), largest, nats(q), nats(mu), 1 - confidence, (1 - confidence) * (nats(q) - nats(b)),
        np.mean([rows[0, MEASURES.index("overlap"), layer] for layer in latent]),
        float(confidence >= 0.9), float(confidence >= 0.9 and largest >= math.log(2)),
    ]  # fmt: skip
    return rows, np.array(scalars), confidence, depth


@pytest.mark.parametrize("name", FAMILIES)
def test_every_figure_equals_a_per_token_loop(name, monkeypatch):
    monkeypatch.setattr(layer_reader, "POSITIONS_AT_ONCE", 5)
    monkeypatch.setattr(analysis_module, "LOGITS_AT_ONCE", 3 * VOCAB)
    model, given = tiny(name), thoughts()
    found = analyse(LayerReader(model), given, DecodingParams("led", depth=3, k=K), T)
    assert (found.vocabulary, found.latent_layers, found.has_norm) == (VOCAB, (3, 2), True)
    confidence, depths, positions = np.zeros(20), np.zeros(3), np.zeros((10, 4))
    for number, problem in enumerate(found.problems):
        layers, scalars, tokens = 0, 0, 0
        for thought in (thought for thought in given if thought.problem == problem):
            drawn = [i for i, thinks in enumerate(thought.thinking) if thinks]
            for place, i in enumerate(drawn):
                rows, values, sure, depth = token_facts(model, name, [*thought.prompt, *thought.completion[:i]])
                layers, scalars, tokens = layers + rows, scalars + values, tokens + 1
                confidence[min(19, int(sure * 20))] += 1
                depths[depth] += 1
                positions[place * 10 // len(drawn)] += (1 - sure, 1, thought.explored[i], 1)
        assert found.tokens[number] == tokens
        np.testing.assert_allclose(found.layers[number], layers, atol=1e-9)
        np.testing.assert_allclose(found.scalars[number], scalars, atol=1e-9)
    np.testing.assert_array_equal(found.confidence.sum(0), confidence)
    np.testing.assert_array_equal(found.depth.sum(0), depths)
    np.testing.assert_allclose(found.positions.sum(0), positions, atol=1e-9)


@pytest.mark.parametrize(
    ("config", "changes"),
    [(Gemma2Config, {"final_logit_softcapping": 1.0, "head_dim": 8} | GROUPED), (CohereConfig, GROUPED)],
)
def test_scaled_and_capped_logits_are_part_of_the_head(config, changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(**SHAPE | changes), dtype=torch.float64).eval()
    tokens = [5, 6, 7]
    with torch.no_grad():
        output = model(torch.tensor([tokens]), output_hidden_states=True)
    read = LayerReader(model).logits(output.hidden_states[-1][0])
    torch.testing.assert_close(read, output.logits[0])
    assert (read - model.get_output_embeddings()(output.hidden_states[-1][0])).abs().max() > 0.01


def test_positions_are_spread_and_counted():
    model = tiny("llama")
    thought = Thought("p", [3, 4], list(range(3, 33)), [True] * 30)
    found = analyse(LayerReader(model), [thought], DecodingParams("led", depth=3, k=K), T, positions_each=10)
    assert found.tokens.tolist() == [10]
    assert found.positions[0, :, 1].tolist() == [1] * 10
    assert found.positions[0, :, 3].tolist() == [0] * 10
    with pytest.raises(ValueError, match="no completion holds a thinking token"):
        analyse(LayerReader(model), [Thought("p", [3], [4], [False])], DecodingParams("led", depth=3, k=K))


def with_figures(monkeypatch, **figures):
    """The outcome for given (low, high) of each figure."""
    from led_rl.evaluation.layers import verdict as analysis_verdict

    found = analyse(LayerReader(tiny("llama")), thoughts(), DecodingParams("led", depth=3, k=K), T)
    ends = {"hidden": figures["hidden"], "latent_overlap": figures["overlap"]}
    monkeypatch.setattr(analysis_verdict, "ratio_difference", lambda *_: Estimate(0, *figures["gain"], 3))
    monkeypatch.setattr(analysis_verdict, "_share_of_tokens", lambda _, name: Estimate(0, *ends[name], 3))
    return judge(found)


@pytest.mark.parametrize(
    ("gain", "hidden", "overlap", "outcome"),
    [
        ((0.2, 0.3), (0.1, 0.2), (0.3, 0.5), "has"),
        ((0.2, 0.3), (0.01, 0.04), (0.3, 0.5), "has no"),
        ((0.2, 0.3), (0.1, 0.2), (0.0, 0.1), "has no"),
        ((-0.2, 0.0), (0.1, 0.2), (0.3, 0.5), "has no"),
        ((0.2, 0.3), (0.04, 0.2), (0.3, 0.5), "undecided"),
        ((math.nan, math.nan), (0.1, 0.2), (0.3, 0.5), "undecided"),
    ],
)
def test_the_rule_of_the_verdict(monkeypatch, gain, hidden, overlap, outcome):
    verdict = with_figures(monkeypatch, gain=gain, hidden=hidden, overlap=overlap)
    assert verdict.outcome == outcome
    assert "latent entropy reservoir" in verdict.sentence


def test_a_model_whose_last_layers_do_nothing_has_no_reservoir():
    """Latent layers that equal the final one add no entropy: without the norm they are the final state unscaled."""
    model = tiny("llama")
    with torch.no_grad():
        for layer in model.model.layers[2:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.mul_(50)  # unscaled latent states are then far more decided than normed ones
    found = analyse(LayerReader(model), thoughts(20), DecodingParams("led", depth=3, k=K), T)
    verdict = judge(found)
    assert verdict.outcome == "has no"
    assert verdict.figures["gain"].high < 0
    json.dumps(as_json(found), allow_nan=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysed")
    return [str(save_tiny_model(folder / name, layers=4, seed=seed)) for seed, name in enumerate(("before", "after"))]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "rows.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{i}+{i}?"}) + "\n" for i in range(5)))
    return path


def test_the_command_writes_table_figure_and_json(models, problems, tmp_path, capsys):
    arguments = ["--data", problems, "--max-tokens", "12", "--n", "2", "--output", tmp_path / "out"]
    assert main(["analyse", *models, *map(str, arguments)]) == 0
    shown = capsys.readouterr().out
    assert "before: " in shown
    assert "after: " in shown
    assert "latent entropy reservoir" in shown
    found = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert list(found) == ["before", "after"]
    assert found["before"]["tokens"] == found["after"]["tokens"] > 0
    assert set(found["before"]["means"]) == set(SCALARS)
    assert len(found["before"]["layers"]["with_norm"]["entropy"]) == 5
    assert (tmp_path / "out" / "analysis.png").read_bytes().startswith(b"\x89PNG")


def test_texts_and_records_are_read_as_they_are(models, tmp_path, capsys):
    texts = tmp_path / "texts.jsonl"
    rows = [{"question": f"{i}?", "said": "ab cd</think>so"} for i in range(3)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--data", str(texts), "--completion-column", "said", "--output", str(tmp_path / "a")]
    assert main(["analyse", models[0], *arguments]) == 0
    found = json.loads((tmp_path / "a" / "analysis.json").read_text())["before"]
    assert found["tokens"] == 3 * len(["a", "b", " ", "c", "d", "</think>"])
    folder = tmp_path / "evaluation"
    folder.mkdir()
    row = {
        "kind": "completion", "checkpoint": "base", "arm": "led", "chunk": 0, "sample": 0, "prompt": "<think>",
        "text": "", "token_ids": [7, 8, 9], "thinking": "110", "explored": "010", "finished": True,
    }  # fmt: skip
    chunk = {key: row[key] for key in ("checkpoint", "arm", "chunk")} | {"problems": 2, "wall_s": None, "tokens": 6}
    lines = [row | {"problem": str(i)} for i in range(2)] + [{"kind": "chunk", **chunk}]
    (folder / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["analyse", models[0], "--data", str(folder), "--output", str(tmp_path / "b")]) == 0
    found = json.loads((tmp_path / "b" / "analysis.json").read_text())["before"]
    assert found["tokens"] == 4
    assert found["really_explored_by_position"][5] == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere.jsonl"], "'nowhere.jsonl' does not exist"),
        (["--data", "ROWS", "--depth", "9"], "--depth 9: model before has 4 layers; allowed: 1 to 4"),
        (["--data", "ROWS", "--temperature", "0"], "--temperature: expected a finite number above 0"),
        (["--data", "ROWS", "--completion-column", "said"], "no text under the key 'said'; keys: problem"),
        (["--data", "ROWS", "--arm", "led"], "--arm: allowed where --data is the folder"),
        (["--data", "FOLDER"], "holds no completions.jsonl"),
    ],
)
def test_mistakes_are_one_line(models, problems, tmp_path, capsys, arguments, said):
    named = [str({"ROWS": problems, "FOLDER": tmp_path}.get(argument, argument)) for argument in arguments]
    assert main(["analyse", models[0], *named]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error
    assert error.startswith("error: ")
