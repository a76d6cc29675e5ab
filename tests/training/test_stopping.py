"""SIGTERM saves and stops, the same command goes on; a killed launcher takes its process along."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from subprocesses import BIN, ROOT, clean_shell, run_command

from led_rl.training.checkpoints import flaw_of

DEADLINE = 300.0  # seconds


@pytest.fixture
def endless(tmp_path, models):
    """Command-line arguments of a run of many short steps, rolled out by transformers."""
    rows = [{"problem": f"{i}+1?", "answer": str(i + 1)} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        "model_name_or_path": models.thinks, "dataset": "rows.jsonl", "use_vllm": False, "use_cpu": True, "bf16": False,
        "rewards": [{"name": "think_format"}], "max_steps": 5000, "save_steps": 1000, "max_completion_length": 4,
        "num_generations": 4, "per_device_train_batch_size": 4, "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return [str(ROOT / "led_rl" / "train.py"), str(tmp_path / "run.yaml")]


@pytest.fixture
def start(tmp_path):
    """`start(*command)`: a process that writes to the log; what is left of them is ended after the test."""
    started = []

    def run(*command):
        with (tmp_path / "log").open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=clean_shell(), cwd=tmp_path)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, process, log):
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, log.read_text()[-3000:]
        assert process is None or process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    return found


def training(log):
    """Whether the run in a log has taken steps."""
    return lambda: re.search(r"step [2-9]/", log.read_text())


def test_sigterm_saves_and_a_killed_launcher_leaves_no_orphan(endless, start, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    launcher = start(BIN / "accelerate", "launch", *endless)
    wait_for(training(log), launcher, log)
    child = int(Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()[0])
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    wait_for(lambda: not Path(f"/proc/{child}/cmdline").exists() or not cmdline(child), None, log)
    first = newest(out)
    assert "stopped by SIGTERM" in log.read_text()

    run = start(sys.executable, *endless)
    wait_for(lambda: re.search(r"step \d+/5000", log.read_text()), run, log)
    run.send_signal(signal.SIGTERM)
    assert run.wait(DEADLINE) == 143
    assert f"resuming from {out / f'checkpoint-{first}'}" in log.read_text()
    assert newest(out) > first
    assert "the same command goes on from there" in log.read_text()
    assert not (out / "trainer_state.json").exists()  # the run is not finished
    assert "Traceback" not in log.read_text()

    last = newest(out)
    run_command(sys.executable, *endless, "--max_steps", str(last + 1))
    state = json.loads((out / "trainer_state.json").read_text())
    assert state["global_step"] == last + 1
    assert (out / "model.safetensors").is_file()


def test_an_order_that_arrives_several_times_is_one_order():
    code = "import signal\nfrom led_rl.training.stopping import stop_on_sigterm\n"
    code += (
        "with stop_on_sigterm(lambda: print('asked')):\n    [signal.raise_signal(signal.SIGTERM) for _ in range(3)]\n"
    )
    code += "signal.raise_signal(signal.SIGTERM)\nprint('ended')"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_shell(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["asked", "ended"]


def cmdline(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def newest(out) -> int:
    """Step of the newest checkpoint, which is whole."""
    steps = [int(path.name.rpartition("-")[2]) for path in out.glob("checkpoint-*")]
    assert flaw_of(out / f"checkpoint-{max(steps)}") is None
    return max(steps)


def test_a_shell_that_dies_takes_nothing_along(tmp_path):
    """Only launchers do: a run that was started with nohup outlives its shell."""
    code = "import os, time, sys\nfrom led_rl.training.stopping import end_with_launcher\n"
    code += "end_with_launcher(os.getppid())\nopen(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    (tmp_path / "code.py").write_text(code)
    mark = tmp_path / "pid"
    shell = subprocess.Popen(["bash", "-c", f"{sys.executable} {tmp_path / 'code.py'} {mark} & wait"], cwd=ROOT,
                             env=clean_shell(PYTHONPATH=str(ROOT)))  # fmt: skip
    wait_for(lambda: mark.exists() and mark.read_text(), shell, mark)
    child = int(mark.read_text())
    shell.kill()
    shell.wait()
    time.sleep(1)
    assert "code.py" in cmdline(child)
    os.kill(child, signal.SIGKILL)
