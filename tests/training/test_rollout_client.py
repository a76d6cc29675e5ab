"""Waiting for a rollout server ends after the time that the run gives it, whatever answers."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from led_rl.decoding import DecodingParams
from led_rl.training.rollout_client import LEDClient, RolloutServerError


@contextmanager
def answering(status):
    """The address of a server that answers every request with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("status", [503, 404, 302])
def test_a_server_that_never_becomes_healthy(status):
    start = time.monotonic()
    with answering(status) as url, pytest.raises(RolloutServerError, match=f"HTTP {status} to /health") as error:
        LEDClient(base_url=url, connection_timeout=3.0, decoding=DecodingParams())
    assert time.monotonic() - start < 60  # the limit is 3 s, and a machine may be busy; without it this never ends
    assert "vllm_server_timeout" in str(error.value)


def test_nobody_answers():
    with answering(200) as url:
        pass  # the port is free again
    with pytest.raises(RolloutServerError, match="no answer"):
        LEDClient(base_url=url, connection_timeout=0.1, decoding=DecodingParams())
