"""What a request asks of its final-layer logits acts before LED chooses candidates: no forbidden token is ever one."""

import json
import random
import re

import pytest
from agreement import CLOSE, THINK, check_agreement, generate_traced, random_text, sampling_params
from conftest import character_tokenizer

from led_rl.engines.transformers_engine import TransformersEngine

TOKENIZER = character_tokenizer()
EOS = TOKENIZER.eos_token_id


@pytest.fixture(scope="module")
def reference(tiny_model):
    return TransformersEngine(tiny_model)


def tokens_of(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


LETTERS = tokens_of("abcdefghijklmnopqrstuvwxyz")
DECODINGS = [
    {"led": 1, "led_think_only": 0, "led_draw": "marginal"},
    {"led": 1, "led_think_only": 0},
    {"led": 1, "led_think_only": 0, "led_exploit": 0, "led_k": 20, "led_draw": "marginal"},
    {"led": 1, "led_think_only": 0, "led_aggregation": "max_entropy_layer", "led_latent_norm": 1},
    {"led_decoding": "led_reference", "led_think_only": 0, "led_depth": 5},
    {"led_decoding": "top_k_control", "led_think_only": 0},
]


def generate(engine, *rules):
    """Thinking requests: every decoding under every rule, which is a dict of sampling parameters."""
    generator = random.Random(2)
    prompts, params = [], []
    for rule in rules:
        for decoding in DECODINGS:
            prompts.append([*random_text(generator, 12), THINK])
            extra_args = decoding | {"tag": len(params)}
            params.append(sampling_params(**({"temperature": 1.0, "extra_args": extra_args} | rule)))
    outputs, traced = generate_traced(engine.llm, prompts, params)
    return prompts, params, outputs, traced


def possible(traced, tag):
    """By position, the tokens that the policy of request `tag` might have drawn."""
    found = {}
    for (request, position), rows in traced.items():
        for step, row in rows if request == tag else ():
            draw, at = step.draws[row]
            found.setdefault(position, set()).update(draw.candidates[at][draw.policy[at] > 0].tolist())
    return found


PENALTIES = [
    {"presence_penalty": 1.5},
    {"presence_penalty": -1.5},
    {"frequency_penalty": 1.2},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.6},
    {"presence_penalty": 0.7, "frequency_penalty": -0.4, "repetition_penalty": 1.3},
    {"temperature": 0.0, "presence_penalty": 1.0, "repetition_penalty": 1.2},
]
EDITS = [
    {"logit_bias": {20: 6.0, 21: -8.0, 22: 4.0}},
    {"allowed_token_ids": LETTERS[:5]},  # fewer than there are candidates
    {"allowed_token_ids": LETTERS, "logit_bias": {LETTERS[0]: 2.0}, "presence_penalty": 2.0, "bad_words": ["b", "cd"]},
    {"min_tokens": 9, "ignore_eos": False, "stop_token_ids": LETTERS[:13], "logit_bias": dict.fromkeys(LETTERS, 4.0)},
]


def test_penalties_biases_and_masks_are_part_of_the_tables_that_led_reads(engine, reference):
    requests = generate(engine, *PENALTIES, *EDITS)
    seen = check_agreement(reference, *requests)
    assert seen["tables"] > 500
    assert seen["log-probabilities"] > 1000


def test_of_allowed_tokens_alone_candidates_are_made(engine):
    _, params, outputs, traced = generate(engine, {"allowed_token_ids": LETTERS[:5]}, {"allowed_token_ids": [70]})
    for i, (param, output) in enumerate(zip(params, outputs, strict=True)):
        allowed = set(param.allowed_token_ids)
        assert all(tokens <= allowed for tokens in possible(traced, i).values())
        assert set(output.outputs[0].token_ids) <= allowed


def test_biases_keep_tokens_out_and_let_them_in(engine):
    out = dict.fromkeys(LETTERS, -100.0)
    _, params, outputs, _ = generate(engine, {"logit_bias": out}, {"logit_bias": {LETTERS[3]: 100.0}})
    for param, output in zip(params, outputs, strict=True):
        drawn = set(output.outputs[0].token_ids)
        if LETTERS[0] in param.logit_bias:
            assert not drawn & set(LETTERS)
        elif "led_exploit" not in param.extra_args:  # latent layers, which no bias edits, have their say there
            assert drawn == {LETTERS[3]}


def test_bad_words_are_never_generated(engine):
    rule = {"allowed_token_ids": LETTERS[:4], "max_tokens": 40, "bad_words": ["ab", "cca", "d"], "detokenize": True}
    _, _, outputs, traced = generate(engine, rule)
    for i, output in enumerate(outputs):
        text = output.outputs[0].text
        assert len(text) == 40
        assert not re.search("ab|cca|d", text)
        assert all(LETTERS[3] not in tokens for tokens in possible(traced, i).values())
    assert any("ca" in output.outputs[0].text for output in outputs)  # a part of a bad word is not bad


def test_nothing_ends_before_min_tokens_and_stop_tokens_end_after(engine):
    rule = {"min_tokens": 10, "ignore_eos": False, "stop_token_ids": LETTERS, "logit_bias": dict.fromkeys(LETTERS, 8.0)}
    rule |= {"max_tokens": 100}  # latent layers, which no bias edits, may go on for a while
    prompts, _, outputs, traced = generate(engine, rule)
    for i, output in enumerate(outputs):
        tokens = output.outputs[0].token_ids
        assert len(tokens) > 10
        assert not set(tokens[:10]) & {*LETTERS, EOS}
        before = {p: found for p, found in possible(traced, i).items() if p < len(prompts[i]) + 9}
        assert len(before) == 10
        assert not set().union(*before.values()) & {*LETTERS, EOS}
    assert {output.outputs[0].finish_reason for output in outputs} == {"stop"}


def test_stop_strings_end_a_thought(engine, reference):
    rule = {"stop": ["ab", "c"], "detokenize": True, "allowed_token_ids": LETTERS[:4], "max_tokens": 60}
    requests = generate(engine, rule)
    check_agreement(reference, *requests)
    ended = 0
    for output in requests[2]:
        sample = output.outputs[0]
        assert not re.search("ab|c", sample.text)
        if sample.finish_reason == "length":  # "aaa..." is rare, but possible
            continue
        assert sample.stop_reason in ("ab", "c")
        ended += 1
        assert TOKENIZER.decode(sample.token_ids) == sample.text + sample.stop_reason
    assert ended >= len(requests[2]) // 2


def test_samples_of_one_request_differ_and_agree(engine, reference):
    requests = generate(engine, {"n": 4}, {"n": 3, "seed": 11, "presence_penalty": 0.5})
    seen = check_agreement(reference, *requests)
    assert seen["log-probabilities"] == len(DECODINGS) * 7 * 24
    for output in requests[2]:
        assert len({tuple(sample.token_ids) for sample in output.outputs}) == len(output.outputs)


def choice_grammar(choices):
    def following(tokens):
        text = TOKENIZER.decode(tokens)
        letters = {choice[len(text)] for choice in choices if choice.startswith(text) and choice != text}
        return [*TOKENIZER.convert_tokens_to_ids(list(letters)), *([EOS] if text in choices else [])]

    return following


def serial_number(tokens):
    """What may follow in the regular expression [ab]{3}-[0-9]+"""
    if len(tokens) < 4:
        return tokens_of("-" if len(tokens) == 3 else "ab")
    return tokens_of("0123456789") + [EOS] * (len(tokens) > 4)


CHOICES = ["yes", "yellow", "no", "nothing"]
TRUTH = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
SPACES = dict.fromkeys(tokens_of(" \t\n\r\x0b\x0c"), -100.0)


def test_a_token_that_the_grammar_forbids_is_never_a_candidate(engine, reference):
    """In latent layers it may be likely, and the floor of 1e-6 would revive it: the mask must hold in every layer."""
    from vllm.sampling_params import StructuredOutputsParams

    shared = {"ignore_eos": False, "detokenize": True, "temperature": 1.2}
    prompts, params, outputs, traced = requests = generate(
        engine,
        shared | {"structured_outputs": StructuredOutputsParams(choice=CHOICES)},
        shared | {"structured_outputs": StructuredOutputsParams(regex="[ab]{3}-[0-9]+")},
        shared | {"structured_outputs": StructuredOutputsParams(json=TRUTH), "logit_bias": SPACES},
    )
    kinds, count = [choice_grammar(CHOICES), serial_number], len(DECODINGS)
    grammars = {i: kinds[i // count] for i in range(2 * count)}
    for i, grammar in grammars.items():
        tokens = list(outputs[i].outputs[0].token_ids)
        found = possible(traced, i)
        for step in range(len(tokens)):
            assert found[len(prompts[i]) - 1 + step] <= set(grammar(tokens[:step])), (i, step)
    seen = check_agreement(reference, *([part[: 2 * count] for part in requests[:3]]), traced, grammars)
    assert seen["tables"] > 25
    texts = [output.outputs[0].text for output in outputs]
    assert set(texts[:count]) <= set(CHOICES)
    assert all(re.fullmatch("[ab]{3}-[0-9]+", text) for text in texts[count : 2 * count])
    assert all(isinstance(json.loads(text)["ok"], bool) for text in texts[2 * count :])
    assert {param.structured_outputs is not None for param in params} == {True}


PAIRS = [
    {"led_start_marker": [50, 51], "led_end_marker": [52, 53]},
    {"led_start_marker": [50, 51, 50], "led_end_marker": [51, 50]},  # they overlap
    {"led_start_marker": [50, 50, 51], "led_end_marker": [50, 51, 50, 50]},
    {"led_start_marker": [51], "led_end_marker": [50, 51]},  # one within the other
    {"led_start_marker": "<a", "led_end_marker": "a>"},
    {"led_start_marker": [THINK, 50], "led_end_marker": [CLOSE, CLOSE]},
]


def test_markers_of_several_tokens_are_followed_as_they_are_generated(engine, reference):
    generator = random.Random(6)
    prompts, params = [], []
    for i in range(60):
        pair = PAIRS[i % len(PAIRS)]
        letters = [50, 51, 52, 53, THINK, CLOSE] if i % len(PAIRS) != 4 else tokens_of("<a>")
        prompts.append([generator.choice(letters) for _ in range(generator.randrange(1, 20))])
        extra_args = {"led": 1, "tag": i} | pair | ({"led_think_start": "marker"} if i % 4 == 0 else {})
        rule = {"max_tokens": 40, "temperature": 2.0, "frequency_penalty": 2.0, "allowed_token_ids": letters}
        params.append(sampling_params(extra_args=extra_args, **rule))
    outputs, traced = generate_traced(engine.llm, prompts, params)
    seen = check_agreement(reference, prompts, params, outputs, traced)
    assert seen["phase changes"] > 25
    assert seen["drawn by led"] > 500
