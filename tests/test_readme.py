"""The README's first script, run as it is printed from a clean shell; and paths that the documents name."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from subprocesses import ROOT, clean_shell


def first_script() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)


def replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"the README's script no longer holds {old!r} once"
    return text.replace(old, new)


@contextmanager
def port_29500_taken() -> Iterator[None]:
    """Listens on the port, unless another process already does."""
    with socket.socket() as listener:
        with suppress(OSError):
            listener.bind(("127.0.0.1", 29500))
            listener.listen()
        yield


def test_the_first_script_trains(tiny_model, tmp_path):
    script = first_script()
    rows = [{"prompt": [{"role": "user", "content": f"say {letter}"}], "solution": "1"} for letter in "abcdefgh"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = replaced(script, '"Qwen/Qwen3-0.6B"', repr(tiny_model))
    script = replaced(script, '"trl-lib/DeepMath-103K"', '"json", data_files="train.jsonl"')
    small = "max_steps=2, max_completion_length=8, per_device_train_batch_size=4, num_generations=4, use_cpu=True,"
    small += (
        "logging_steps=1, vllm_max_model_length=128, bf16=False, vllm_mode='colocate', vllm_enable_sleep_mode=False, "
    )
    script = replaced(script, "LEDGRPOConfig(", f"LEDGRPOConfig({small}")
    (tmp_path / "script.py").write_text(script)
    with port_29500_taken():  # torch's and accelerate's default: two runs on one machine would meet there
        ran = subprocess.run(
            [sys.executable, "script.py"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=clean_shell(),
            timeout=600,
        )
    assert ran.returncode == 0, ran.stderr[-6000:]
    states = list(tmp_path.glob("led-grpo/checkpoint-2/trainer_state.json"))
    assert len(states) == 1
    logged = json.loads(states[0].read_text())["log_history"]
    assert any(entry.get("led/explored_fraction", 0) > 0 for entry in logged), logged


FILES = {path.relative_to(ROOT).as_posix() for folder in ("led_rl", "rewards", "tests", "docs", "recipes", "launch")
         for path in (ROOT / folder).rglob("*.*")}  # fmt: skip
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"[`(]((?:[\w-]+/)*\w+\.(?:py|md|yaml|json|sh))\b", text))
    made = ("warmup", "benchmark", "manifest", "summary", "slopes", "recipe", "trainer_state", "acceptance", "analysis")
    made += ("report", "provenance")
    missing = {
        name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in FILES | {"CONTRIBUTING.md"})
    }
    assert {name for name in missing if not name.rpartition(".")[0].endswith(made)} == set()
