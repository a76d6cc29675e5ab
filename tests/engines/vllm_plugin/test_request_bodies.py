"""What `led-rl serve` does with the bodies of requests before vLLM reads them."""

import asyncio
import json

import pytest

from led_rl.engines.vllm_plugin.request_bodies import CheckBodies
from led_rl.sampler.capture_options import DEFAULT_VARIABLE

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def served(path: str, body: object, monkeypatch, default: str = "") -> tuple[int, object]:
    """Status, and what the application behind the middleware got, or the error's message."""
    monkeypatch.setenv(DEFAULT_VARIABLE, default)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    halves = [
        {"type": "http.request", "body": raw[:9], "more_body": True},
        {"type": "http.request", "body": raw[9:], "more_body": False},
    ]
    sent: list[dict] = []
    got: list[bytes] = []

    async def application(scope, receive, send):
        whole, more = b"", True
        while more:
            message = await receive()
            whole, more = whole + message["body"], message["more_body"]
        length = dict(scope["headers"]).get(b"content-length")
        assert length is None or int(length) == len(whole)
        got.append(whole)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return halves.pop(0)

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(CheckBodies(application)(scope, receive, send))
    status = sent[0]["status"]
    if status == 200:
        return status, json.loads(got[0]) if got[0] != raw else body
    return status, json.loads(sent[1]["body"])["error"]["message"]


@pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
def test_a_chat_that_turns_thinking_off_thinks_only_where_the_model_opens_it(monkeypatch, switch):
    off = {"messages": [], "chat_template_kwargs": {switch: False}}
    asked = {**off, "vllm_xargs": {"led": 1, "tag": 3}}
    _, got = served(CHAT, asked, monkeypatch)
    assert got == {**off, "vllm_xargs": {"led": 1, "tag": 3, "led_think_start": "marker"}}
    _, got = served(CHAT, {**off, "vllm_xargs": {"tag": 3}}, monkeypatch, '{"led": 1, "led_k": 4}')
    assert got == {**off, "vllm_xargs": {"tag": 3, "led": 1, "led_k": 4, "led_think_start": "marker"}}


@pytest.mark.parametrize(
    "body",
    [
        {"chat_template_kwargs": {"enable_thinking": True}, "vllm_xargs": {"led": 1}},
        {"chat_template_kwargs": {"enable_thinking": False}, "vllm_xargs": {"led": 0}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": False}, "vllm_xargs": {"led": 1, "led_think_start": "prompt"}},
        {"chat_template_kwargs": [], "vllm_xargs": {"led": 1}},
        {"vllm_xargs": {"led": 1}},
        b"[1, 2, 3, 4, 5]",
        b"no JSON at all",
        b"[" * 100_000,
    ],
    ids=lambda body: str(body)[:60],
)
def test_other_bodies_pass_as_they_are(monkeypatch, body):
    assert served(CHAT, body, monkeypatch) == (200, body)


def test_scores_that_a_default_decoding_would_change_are_refused(monkeypatch):
    default = '{"led": 1}'
    for path, body in ((COMPLETIONS, {"use_beam_search": True}), ("/generative_scoring", {"query": "a"})):
        status, message = served(path, body, monkeypatch, default)
        assert status == 400
        assert "default decoding" in str(message)
        assert served(path, body, monkeypatch) == (200, body)
