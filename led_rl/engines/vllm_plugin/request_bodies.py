"""Refuses bodies of HTTP requests in which LED's keys would be ignored or read as something else.

vLLM reads only the fields that it knows, and turns `true` into 1 where `vllm_xargs` may hold an integer. By the time a
request is submitted, that can no longer be seen: so `led-rl serve` looks at the body itself.

A chat request that turns thinking off through its template is explored only once the model opens a think part itself:
some templates close thinking in the prompt then, which says so, and others write no marker at all.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from led_rl.decoding import PREFIX, DecodingError, DecodingParams
from led_rl.engines.vllm_plugin.submission import is_led_key
from led_rl.sampler.capture_options import DEFAULT_VARIABLE


class CheckBodies:
    """ASGI middleware: HTTP 400 with the reason for a body that `reason_against` refuses; `as_meant` for the others."""

    def __init__(self, app: Any):
        self.app = app
        self.default = json.loads(os.environ.get(DEFAULT_VARIABLE) or "{}")

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        types = [value for name, value in scope.get("headers", ()) if name == b"content-type"]
        if scope["type"] != "http" or scope["method"] != "POST" or not any(b"json" in value for value in types):
            await self.app(scope, receive, send)
            return
        messages, body = [], b""
        while True:
            message = await receive()
            messages.append(message)
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        if reason := reason_against(scope["path"], body, self.default):
            error = {"message": reason, "type": "BadRequestError", "param": "vllm_xargs", "code": 400}
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})
            return

        if meant := as_meant(scope["path"], body, self.default):
            messages = [{"type": "http.request", "body": meant, "more_body": False}]
            kept = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
            scope = {**scope, "headers": [*kept, (b"content-length", str(len(meant)).encode())]}

        async def replay() -> Any:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay, send)


def reason_against(path: str, body: bytes, default: Mapping[str, Any]) -> str | None:
    """Why a request must not be served as it stands, if so; what is no JSON object is left to vLLM.

    Args:
        default: the request keys of requests that name no decoding.
    """
    request = _object(body)
    if request is None:
        return None
    stray = [key for key in request if is_led_key(key) or key == "extra_args"]
    if stray:
        return f"{stray[0]!r} is not read at the top level of a body: put LED's keys into vllm_xargs"
    try:
        decoding = DecodingParams.from_extra_args(_led_keys(request, default))
    except DecodingError as error:
        return str(error)
    if decoding.is_standard and not default:
        return None
    if request.get("use_beam_search"):
        return f"use_beam_search does not work with {PREFIX}_decoding, nor on a server with a default decoding"
    if path.rstrip("/").endswith("generative_scoring") and default:
        return "generative scoring does not work on a server with a default decoding: it would change the scores"
    return None


def as_meant(path: str, body: bytes, default: Mapping[str, Any]) -> bytes | None:
    """A body that `reason_against` lets pass, with what it leaves unsaid; None if that is nothing.

    A chat request whose template is told not to think starts to think at a generated marker alone, unless it names its
    `led_think_start`.
    """
    request = _object(body)
    if request is None or "chat/completions" not in path:
        return None
    options = request.get("chat_template_kwargs")
    if not isinstance(options, dict) or not any(options.get(name) is False for name in THINKING_SWITCHES):
        return None
    keys, start = _led_keys(request, default), f"{PREFIX}_think_start"
    if DecodingParams.from_extra_args(keys).is_standard or start in keys:
        return None
    return json.dumps(
        {**request, "vllm_xargs": {**(request.get("vllm_xargs") or {}), **keys, start: "marker"}}
    ).encode()


THINKING_SWITCHES = ("enable_thinking", "thinking")  # of chat templates


def _object(body: bytes) -> dict[str, Any] | None:
    """The JSON object that a body is, if it is one."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return request if isinstance(request, dict) else None


def _led_keys(request: Mapping[str, Any], default: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request keys that a body names, or else the server's."""
    given = request.get("vllm_xargs")
    return given if isinstance(given, dict) and any(map(is_led_key, given)) else default
