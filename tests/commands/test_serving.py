"""`led-rl serve` and plain vLLM servers with LED, started for real and asked by the real `openai` client."""

import asyncio
import inspect
import json
import re
import sys
import urllib.request
from dataclasses import fields
from itertools import cycle, islice

import openai
import psutil
import pytest
import torch
from servers import DEFAULT, SIZES, clean_environment, running
from subprocesses import BIN, ROOT, run_command

from led_rl.commands.doctor import main as doctor
from led_rl.commands.serving import parse
from led_rl.decoding import DecodingParams, UserError
from led_rl.engines.engine import Sampling
from led_rl.engines.transformers_engine import TransformersEngine, standard_policy
from led_rl.thinking import ThinkMarkers

THINK, CLOSE = 3, 4
THINKING = [5, 17, 42, 9, THINK]
CLOSED = [*THINKING, 50, CLOSE, 51]
SETTINGS = {"temperature": 0.8, "top_p": 0.5, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(led_server):
    return openai.OpenAI(base_url=f"{led_server}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def reference(tiny_model):
    return TransformersEngine(tiny_model)


def body(xargs, **extra) -> dict:
    """What goes beside OpenAI's own parameters."""
    return {"return_token_ids": True, "ignore_eos": True, **({} if xargs is None else {"vllm_xargs": xargs}), **extra}


def flat(decoding: DecodingParams) -> dict:
    return decoding.to_extra_args() or {"led": 0}


def complete(client, model, xargs=None, prompt=THINKING, **changes):
    settings = {**SETTINGS, "logprobs": 0, **changes}
    return client.completions.create(model=model, prompt=prompt, extra_body=body(xargs), **settings)


def sampled(choice) -> tuple[list[int], list[float]]:
    """Token ids and log-probabilities of one choice of a completion or of a chat completion."""
    logprobs = choice.logprobs
    values = [token.logprob for token in logprobs.content] if hasattr(logprobs, "content") else logprobs.token_logprobs
    return choice.token_ids, values


def check(reference, decoding, prompt, tokens, logprobs, sampling=None) -> int:
    """Holds log-probabilities against the behaviour policy in transformers; returns the number of explored tokens."""
    sampling = sampling or Sampling(SETTINGS["temperature"], SETTINGS["top_p"])
    assert len(tokens) == len(logprobs) > 0
    sequence = prompt + tokens[:-1]
    rows = range(len(prompt) - 1, len(sequence))
    led, _ = reference.distributions(sequence, decoding, sampling.temperature)
    with torch.no_grad():
        logits = reference.model(torch.tensor([sequence])).logits[0]
    thinking = ThinkMarkers.from_tokenizer(reference.tokenizer).thinking_mask(prompt, tokens)
    explored = 0
    for row, token, logprob, thought in zip(rows, tokens, logprobs, thinking, strict=True):
        if decoding.is_standard or not thought:
            policy = standard_policy(logits[row][None], sampling)[0]
        else:
            explored += 1
            assert token in logits[row].topk(decoding.k).indices
            if decoding.decoding == "led":
                policy = torch.zeros(logits.shape[-1], dtype=led.mu.dtype).scatter_(0, led.candidates[row], led.mu[row])
            else:
                policy = standard_policy(logits[row][None], Sampling(sampling.temperature, top_k=decoding.k))[0]
        assert logprob == pytest.approx(policy[token].log().item(), abs=2e-5)
    return explored


DECODINGS = [
    DecodingParams("led", draw="marginal"),
    DecodingParams("led", depth=3, k=3, latent_norm=True, draw="marginal"),
    DecodingParams("led", latent_layers=(9, 11, 6), exploit=False, draw="marginal"),
    DecodingParams("top_k_control", k=5),
    DecodingParams(),
]


@pytest.mark.parametrize("decoding", DECODINGS, ids=lambda decoding: decoding.decoding)
def test_completions_return_the_behaviour_policy_s_log_probabilities(client, reference, tiny_model, decoding):
    for prompt in (THINKING, CLOSED):
        answer = complete(client, tiny_model, flat(decoding), prompt, n=4)
        assert len(answer.choices) == 4
        explored = sum(check(reference, decoding, prompt, *sampled(choice)) for choice in answer.choices)
        assert explored > 10 if prompt is THINKING and not decoding.is_standard else explored < 48


@pytest.mark.parametrize("decoding", DECODINGS[::3], ids=lambda decoding: decoding.decoding)
def test_chat_completions_do_too(client, reference, tiny_model, decoding):
    answer = client.chat.completions.create(
        model=tiny_model,
        messages=[{"role": "user", "content": "say a"}],
        n=2,
        logprobs=True,
        extra_body=body(flat(decoding)),
        **SETTINGS,
    )
    assert answer.prompt_token_ids[-1] == THINK  # the chat template opens the think part
    for choice in answer.choices:
        assert check(reference, decoding, answer.prompt_token_ids, *sampled(choice))


def test_a_stream_holds_the_tokens_of_the_whole_answer(client, reference, tiny_model):
    xargs = flat(DECODINGS[0])
    whole = complete(client, tiny_model, xargs, seed=7)
    chunks = list(complete(client, tiny_model, xargs, seed=7, stream=True))
    assert len(chunks) > 4
    parts = [sampled(chunk.choices[0]) for chunk in chunks if chunk.choices and chunk.choices[0].token_ids]
    tokens = [token for part, _ in parts for token in part]
    assert tokens == whole.choices[0].token_ids
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert check(reference, DECODINGS[0], THINKING, tokens, [value for _, part in parts for value in part])


def test_the_default_is_for_requests_that_name_no_decoding(client, reference, tiny_model):
    for xargs in (None, {"tag": 1}):
        choice = complete(client, tiny_model, xargs).choices[0]
        assert check(reference, DEFAULT, THINKING, *sampled(choice))
    for xargs in ({"led": 0}, {"led": False}, {"led_decoding": "standard"}):
        choice = complete(client, tiny_model, xargs).choices[0]
        assert check(reference, DecodingParams(), THINKING, *sampled(choice)) == 0
    other = complete(
        client, tiny_model, {"led": 1, **flat(DECODINGS[0])}, n=8
    ).choices  # of its own k, not the default's
    assert sum(check(reference, DECODINGS[0], THINKING, *sampled(choice)) for choice in other)


@pytest.mark.parametrize(
    ("xargs", "parts"),
    [
        ({"led": 1, "led_q": 3}, ("'led_q'", "allowed", "led_depth")),
        ({"led": "yes"}, ("led must be true or false", "'yes'")),
        ({"led": 1, "led_k": 0}, ("led_k", ">= 1", "0")),
        ({"led": 1, "led_k": "many"}, ("led_k", "'many'")),
        ({"led_k": 4}, ("led_k", "without a decoding")),
        ({"led": 1, "led_depth": 9}, ("LED_RL_DEPTH=8", "led_depth")),
        ({"led": 1, "led_depth": 13}, ("led_depth=13", "12")),
        ({"led": 1, "led_latent_layers": [11, 2]}, ("[2]", "captures")),
        ({"led": 1, "led_latent_layers": 11}, ("led_latent_layers", "list")),
        ({"led_decoding": "lad"}, ("led_decoding", "'lad'", "top_k_control")),
        ({"led": 1, "led_k": True}, ("led_k", "True")),
        ({"led": 1, "led_k": 129}, ("led_k=129", "128", "LED_RL_MAX_K")),
        ({"led": 1, "led_k": 2**63}, ("led_k", "2147483647")),
        ({"led": 1, "led_end_marker": [9223372036854775808]}, ("led_end_marker", "2147483647")),
        ({"led": 1, "led_end_marker": [5, 100000]}, ("led_end_marker", "[100000]", "0 to")),
        ({"led": 1, "led_end_marker": "<think>"}, ("led_end_marker", "must differ")),
        ({"led": 0, "led_decoding": "led"}, ("led_decoding", "leave one of them out")),
    ],
    ids=str,
)
def test_wrong_requests_are_refused_with_the_reason_and_the_server_goes_on(client, tiny_model, xargs, parts):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refusal:
            complete(client, tiny_model, xargs, stream=stream)
        assert refusal.value.status_code == 400
        for part in parts:
            assert part in str(refusal.value)
    assert len(complete(client, tiny_model, {"led": 1}).choices[0].token_ids) == SETTINGS["max_tokens"]


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        ({"led": 1}, ("'led'", "vllm_xargs")),
        ({"led_k": 4}, ("'led_k'", "vllm_xargs")),
        ({"extra_args": {"led": 1}}, ("'extra_args'", "vllm_xargs")),
        ({"use_beam_search": True, "vllm_xargs": {"led": 0}}, ("use_beam_search",)),
    ],
    ids=str,
)
def test_bodies_that_would_be_read_otherwise_are_refused(client, tiny_model, extra, parts):
    with pytest.raises(openai.BadRequestError) as refusal:
        client.completions.create(model=tiny_model, prompt=THINKING, max_tokens=2, extra_body=extra)
    for part in parts:
        assert part in str(refusal.value)


def test_seeded_prompts_longer_than_a_step_do_not_end_a_cpu_server(led_server, client, tiny_model):
    """120 prompts of 200 tokens are several steps' worth: vLLM would cut one of them, and end."""

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{led_server}/v1", api_key="none", max_retries=0) as asker:
            prompts = [[5 + (7 * row + place) % 90 for place in range(199)] + [THINK] for row in range(120)]
            return await asyncio.gather(
                *(
                    asker.completions.create(model=tiny_model, prompt=prompt, max_tokens=2, seed=row)
                    for row, prompt in enumerate(prompts)
                )
            )

    assert len(asyncio.run(ask_all())) == 120
    assert complete(client, tiny_model, {"led": 1}).choices


def test_many_clients_at_once_each_get_their_own_decoding(led_server, reference, tiny_model):
    async def ask(client, number, decoding):
        prompt = [*THINKING[:-1], 20 + number, THINK]
        settings = {
            "model": tiny_model,
            "prompt": prompt,
            "logprobs": 0,
            "extra_body": body(flat(decoding)),
            **SETTINGS,
        }
        if number % 2:
            stream = await client.completions.create(stream=True, **settings)
            parts = [sampled(c.choices[0]) async for c in stream if c.choices and c.choices[0].token_ids]
            return prompt, [([t for p, _ in parts for t in p], [v for _, p in parts for v in p])]
        answer = await client.completions.create(n=2, **settings)
        return prompt, [sampled(choice) for choice in answer.choices]

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{led_server}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, n, decoding) for n, decoding in enumerate(decodings)))

    decodings = list(islice(cycle(DECODINGS), 32))
    answers = asyncio.run(ask_all())
    explored = 0
    for decoding, (prompt, choices) in zip(decodings, answers, strict=True):
        for tokens, logprobs in choices:
            assert len(tokens) == SETTINGS["max_tokens"]
            explored += check(reference, decoding, prompt, tokens, logprobs)
    assert explored > 100


def test_requests_take_the_server_s_depth_and_an_engine_that_dies_ends_it_with_an_error(
    reference, tiny_model, tmp_path
):
    command = [BIN / "led-rl", "serve", tiny_model, "--led-depth", "3", "--led-max-k", "6", *SIZES]
    with running(tmp_path / "log", *command) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        choice = complete(client, tiny_model, {"led": 1, "led_k": 6, "led_draw": "marginal"}).choices[0]
        assert check(reference, DecodingParams("led", depth=3, k=6, draw="marginal"), THINKING, *sampled(choice))
        with pytest.raises(openai.BadRequestError, match="LED_RL_MAX_K=6"):
            complete(client, tiny_model, {"led": 1})
        (server,) = [one for one in psutil.process_iter(["cmdline"]) if url.rpartition(":")[2] in one.info["cmdline"]]
        (engine,) = [child for child in server.children(recursive=True) if "VLLM::Engine" in child.name()]
        engine.kill()
        assert server.wait(timeout=120) == 1


def test_a_plain_vllm_server_takes_depth_and_default_from_the_environment(reference, tiny_model, tmp_path):
    from led_rl.engines.environment import CPU_ENVIRONMENT

    environment = {**CPU_ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    environment |= {"LED_RL_DEPTH": "4", "LED_RL_DEFAULT": '{"led_decoding": "top_k_control", "led_k": 2}'}
    options = ["--dtype", "float32", "--enforce-eager", "--logprobs-mode", "processed_logprobs", *SIZES]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", tiny_model, *options]
    with running(tmp_path / "log", *command, **environment) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        asked = DecodingParams("led", depth=4, k=6, draw="marginal")
        for decoding, xargs in ((asked, flat(asked)), (DecodingParams("top_k_control", k=2), None)):
            choice = complete(client, tiny_model, xargs).choices[0]
            assert check(reference, decoding, THINKING, *sampled(choice))
        with pytest.raises(openai.BadRequestError, match="LED_RL_DEPTH=4"):
            complete(client, tiny_model, {"led": 1, "led_depth": 5})


def test_a_default_that_the_server_cannot_serve_is_an_error_before_weights_are_loaded(tiny_model):
    command = [BIN / "led-rl", "serve", "--led-default", "led=1,led_depth=9", tiny_model, *SIZES]
    output = run_command(*command, status=2, **{"VLLM_LOGGING_LEVEL": "ERROR"})
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "--led-default" in last
    assert "--led-depth=8" in last


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--led-default", "led=1,led_q=3"], ("--led-default", "'led_q'", "allowed", "led_depth")),
        (["--led-default", "temperature=1"], ("--led-default", "'temperature'", "allowed")),
        (["--led-default", "led_k=4"], ("--led-default", "led_k", "without a decoding")),
        (["--led-default", "led=1", "--led-default", "led_k=0"], ("--led-default", "led_k", ">= 1")),
        (["--led-default", "led"], ("--led-default", "KEY=VALUE")),
        (["--led-depth", "0"], ("--led-depth", ">= 1", "'0'")),
        (["--led-layers", "11,top"], ("--led-layers", "'11,top'")),
    ],
    ids=str,
)
def test_wrong_options_are_one_line_that_names_the_option(options, parts):
    with pytest.raises(UserError) as refused:
        parse([*options, "MODEL"])
    line = str(refused.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_our_options_are_taken_out_and_the_rest_is_left_to_vllm():
    arguments = ["--led-depth", "4", "MODEL", "--port", "1", "--led-default", "led=1,led_latent_layers=[9,11]"]
    arguments += ["--hf-overrides", '{"a": 1}', "--led-default=led_think_start=marker", "--led-layers", "11,9"]
    ours, rest = parse(arguments)
    assert rest == ["MODEL", "--port", "1", "--hf-overrides", '{"a": 1}']
    assert (ours.led_depth, ours.led_layers) == (4, (11, 9))
    assert ours.led_default == {"led": 1, "led_latent_layers": [9, 11], "led_think_start": "marker"}


def key_rows() -> list[str]:
    """The rows of the table of request keys in docs/serving.md: `DecodingParams`' own words."""
    attributes = inspect.getdoc(DecodingParams).partition("Attributes:\n")[2]
    texts = dict(re.findall(r"^    (\w+(?:, \w+)*): (.*?)(?=^    \w|\Z)", attributes, re.MULTILINE | re.DOTALL))
    defaults = {field.name: field.default for field in fields(DecodingParams)}
    rows = []
    for name, text in texts.items():
        default = json.dumps(defaults[name]) if not isinstance(defaults[name], str) else defaults[name]
        rows.append(f"| `led_{name}` | `{default}` | {' '.join(text.split())} |")
    assert set(texts) == set(defaults)
    return rows


def test_the_page_on_serving_lists_every_request_key_in_the_words_of_the_code():
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `led_")]
    assert rows == key_rows()


def test_help_shows_our_options_and_vllm_s(tiny_model):
    output = run_command(BIN / "led-rl", "serve", "--help", **clean_environment())
    for part in ("--led-depth", "--led-layers", "--led-default", "ModelConfig"):
        assert part in output


def counters_of(server) -> dict[str, float]:
    with urllib.request.urlopen(f"{server}/metrics", timeout=10) as answer:
        lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines()]
    return {name.removeprefix("led_rl:"): float(value) for name, value in lines if name.startswith("led_rl:")}


def led_of(answer) -> dict | None:
    return (answer.model_extra["kv_transfer_params"] or {}).get("led")


def test_answers_and_metrics_tell_what_led_did(led_server, client, tiny_model):
    before = counters_of(led_server)
    told = []
    for decoding in (DECODINGS[0], DecodingParams("led", depth=3), DecodingParams()):
        answer = complete(client, tiny_model, flat(decoding), n=2, seed=3)
        chat = client.chat.completions.create(
            model=tiny_model,
            messages=[{"role": "user", "content": "say a"}],
            stop=["a", "e", "i"],
            extra_body=body(flat(decoding)),
            **SETTINGS,
        )
        if decoding.is_standard:
            assert led_of(answer) is led_of(chat) is None
            continue
        statistics = led_of(answer)
        markers = ThinkMarkers(THINK, CLOSE)  # type: ignore[arg-type]
        thinking = [markers.thinking_mask(THINKING, choice.token_ids) for choice in answer.choices]
        assert statistics["rows"] == sum(map(sum, thinking))
        assert 0 < statistics["confidence"] < 1
        assert statistics["rows"] >= statistics["read"] == sum(statistics["depth"])
        told += [statistics, led_of(chat)]
    grown = {name: value - before.get(name, 0.0) for name, value in counters_of(led_server).items()}
    assert grown["requests_total"] == 6
    assert grown["rows_total"] == sum(statistics["rows"] for statistics in told)
    assert grown["explored_total"] == pytest.approx(sum(statistics["explored"] for statistics in told))
    depths = sum(value for name, value in grown.items() if name.startswith("depth_total{"))
    assert depths == grown["read_total"] == sum(statistics["read"] for statistics in told)
    for name in ("confidence", "entropy_mu"):
        expected = sum(statistics[name] * statistics["rows"] for statistics in told)
        assert grown[f"{name}_total"] == pytest.approx(expected)


def test_doctor_knows_the_server(led_server, capfd):
    assert doctor(["--server", led_server, "--json"]) == 0
    checks = {check["name"]: check["text"] for check in json.loads(capfd.readouterr().out)["checks"]}
    assert "rows 4" in checks["LED request"]
    assert "sequences" in checks["metrics"]
