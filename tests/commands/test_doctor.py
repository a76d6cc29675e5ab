"""`led-rl doctor` as a user runs it."""

import importlib.metadata
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import EntryPoint

import pytest
from conftest import character_tokenizer
from servers import clean_environment, free_port
from subprocesses import BIN, run_command

from led_rl.commands.doctor import main
from led_rl.decoding import UserError
from led_rl.engines import installation


def checks_of(output: str) -> dict[str, dict]:
    report = json.loads(output)
    assert report["ok"] == all(check["status"] != "FAIL" for check in report["checks"])
    return {check["name"]: check for check in report["checks"]}


def test_a_model_is_tried_and_agrees_with_transformers(tiny_model):
    environment = clean_environment(LED_RL_DETPH="8")
    output = run_command(BIN / "led-rl", "doctor", tiny_model, "--depth", "5", **environment)
    lines = output.splitlines()
    by_name = {line[6:22].strip(): line for line in lines if line.startswith(("ok    ", "warn  ", "FAIL  "))}
    assert "LED works" in lines
    assert by_name["vllm"].startswith("ok")
    assert by_name["environment"].startswith("warn")
    assert "LED_RL_DETPH" in by_name["environment"]
    assert "Qwen3ForCausalLM, 12 layers" in by_name["architecture"]
    assert "</think>: one token" in by_name["think markers"]
    assert "[11, 10, 9, 8]" in by_name["engine"]
    assert "64 rows drawn for 64 tokens, 64 in" in by_name["sampler"]
    assert by_name["transformers"].startswith("ok")


def test_the_installation_alone(capfd, monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "led_rl")
    assert main(["--json"]) == 0
    checks = checks_of(capfd.readouterr().out)
    assert {"torch", "vllm", "transformers", "trl", "plugin", "device", "model runner", "decodings"} <= set(checks)
    assert "latent_noise (with enforce_eager)" in checks["decodings"]["text"]
    assert "engine" not in checks


def test_what_cannot_work_fails_and_says_why(capfd, monkeypatch, tiny_model, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=1, vocab_size=106)).save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    monkeypatch.setenv("LED_RL_DEPTH", "many")
    for arguments, line in (
        ([str(tmp_path)], "GPT2LMHeadModel is not supported; LED knows Gemma2ForCausalLM"),
        ([tiny_model, "--depth", "13"], "--depth 13 reads 13 layers"),
        ([str(tmp_path / "nowhere")], "nowhere"),
    ):
        assert main(arguments) == 1
        failed = [line for line in capfd.readouterr().out.splitlines() if line.startswith("FAIL")]
        assert [name.split()[1] for name in failed[:2]] == ["plugin", "environment"]
        assert "VLLM_PLUGINS=other" in failed[0]
        assert "LED_RL_DEPTH" in failed[1]
        assert len(failed) == 3
        assert line in failed[2]


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ("led_rl.engines.vllm_plugin:gone", "cannot be loaded"),
        ("led_rl.nowhere:register", "cannot be loaded"),
        ("led_rl.cli:main", "is not this led-rl's plugin"),
    ],
)
def test_an_entry_point_of_another_version_fails(entry, part, monkeypatch):
    """As an editable installation keeps it from the time when it was installed."""
    entries = [EntryPoint(installation.PLUGIN, entry, installation.GROUP)]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: entries)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    check = installation.check_plugin()
    assert check.status == "FAIL"
    assert part in check.text
    assert entry in check.text


class PlainServer(BaseHTTPRequestHandler):
    """Answers as a vLLM without LED: it ignores keys that it does not know."""

    def do_GET(self):
        self.answer({"data": [{"id": "model"}]} if self.path == "/v1/models" else {})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"choices": [{"text": "2"}], "kv_transfer_params": None})

    def answer(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


def test_a_server_without_led_is_found_out(capfd):
    with HTTPServer(("127.0.0.1", 0), PlainServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert main(["--json", "--server", f"http://127.0.0.1:{server.server_port}/v1"]) == 1
        server.shutdown()
    checks = checks_of(capfd.readouterr().out)
    assert checks["server"]["status"] == "ok"
    for name in ("wrong requests", "LED request", "metrics"):
        assert checks[name]["status"] == "FAIL"


def test_nobody_at_the_address(capfd):
    assert main(["--server", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "refused" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"), [(["--depth", "1"], "--depth"), (["--server", "http://x", "MODEL"], "--server")]
)
def test_wrong_arguments(arguments, part):
    with pytest.raises(UserError, match=part):
        main(arguments)
