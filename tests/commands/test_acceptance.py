"""`led-rl doctor --acceptance`: the part that a CPU can run, and what becomes of sections that crash or hang."""

import json
import signal
import threading
import time
from dataclasses import replace

import psutil
import pytest
import torch
from rich.console import Console
from subprocesses import BIN, run_command

from led_rl.benchmarks.acceptance.laws import binomial_z, chi_square_p
from led_rl.benchmarks.acceptance.run import accept
from led_rl.benchmarks.acceptance.sections import SECTIONS
from led_rl.commands.doctor import main
from led_rl.decoding import UserError
from led_rl.engines.environment import has_gpu

GPU_SECTIONS = [name for name in SECTIONS if name != "tensor-parallel"]


def run(output, *sections: str, seconds: int = 600) -> dict:
    """acceptance.json of these sections, all of which must pass or be skipped."""
    arguments = ["--sections", ",".join(sections), "--output", output, "--seconds", seconds]
    page = run_command(BIN / "led-rl", "doctor", "--acceptance", *arguments, timeout=seconds)
    found = json.loads((output / "acceptance.json").read_text())
    assert found["ok"]
    assert [check["name"] for check in found["checks"] if check["status"] == "FAIL"] == []
    assert list(found["sections"]) == list(sections)
    written = (output / "acceptance.txt").read_text()
    for check in found["checks"]:
        assert check["name"] in page
        assert check["name"] in written
    assert {"python", "torch"} <= set(found["versions"])
    assert found["machine"]["cores"] > 0
    return found


@pytest.mark.skipif(has_gpu(), reason="a GPU runs every section, below")
def test_a_machine_without_a_gpu_runs_its_part_and_skips_the_rest_visibly(tmp_path):
    found = run(tmp_path, "v1-eager-float32", "v2-compiled-bfloat16", "wide")
    checks = {(check["section"], check["name"]): check for check in found["checks"]}
    for name in ("v2-compiled-bfloat16", "wide"):
        assert found["sections"][name]["status"] == "skip"
        assert checks[name, "skipped"]["text"]
    agreement = checks["v1-eager-float32", "transformers"]["figures"]
    assert agreement["tables"] > 500
    assert agreement["table_error"] < 1e-5
    assert agreement["logprob_error"] < 1e-5
    for draw in ("coin", "marginal"):
        tokens = checks["v1-eager-float32", f"tokens, {draw}"]["figures"]
        assert tokens["n"] == 4000
        assert tokens["p_mu"] > 1e-4 > 1e-6 > tokens["p_final_layer"]


@pytest.mark.gpu
@pytest.mark.parametrize("section", GPU_SECTIONS)
def test_on_a_gpu(section, tmp_path):
    assert run(tmp_path, section)["sections"][section]["status"] in ("ok", "warn")


@pytest.mark.gpu
def test_tensor_parallel_on_two_gpus(tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA GPUs")
    assert run(tmp_path, "tensor-parallel")["sections"]["tensor-parallel"]["status"] == "ok"


def quietly(sections, output):
    with (output / "console").open("w") as file:
        return accept(sections, output, 120, 1, Console(file=file))


def test_sections_that_crash_hang_or_find_no_time_fail_and_the_others_go_on(tmp_path):
    installation = SECTIONS["installation"]
    report = quietly(
        [
            replace(installation, name="crashes", settings={"unknown": 1}),
            replace(installation, name="hangs", seconds=0.3),
            replace(installation, name="no-time", least=1e6),
            installation,
        ],
        tmp_path,
    )
    (crash,), (hang,), (late,) = (report.of(name) for name in ("crashes", "hangs", "no-time"))
    assert crash["status"] == "FAIL"
    assert "exit status 1" in crash["text"]
    assert "unexpected keyword argument 'unknown'" in crash["text"]
    assert hang["status"] == "FAIL"
    assert "stopped after" in hang["text"]
    assert late["status"] == "skip"
    assert "are left" in late["text"]
    assert report.status("installation") in ("ok", "warn")
    found = json.loads((tmp_path / "acceptance.json").read_text())
    assert not found["ok"]
    assert report.failed() == 2
    assert "Traceback" in (tmp_path / "logs" / "crashes.log").read_text()


def test_a_killed_section_fails_with_its_signal(tmp_path):
    before = {child.pid for child in psutil.Process().children()}

    def kill() -> None:
        while not (workers := [child for child in psutil.Process().children() if child.pid not in before]):
            time.sleep(0.02)
        workers[0].send_signal(signal.SIGSEGV)

    threading.Thread(target=kill, daemon=True).start()
    report = quietly([SECTIONS["installation"]], tmp_path)
    assert report.of("installation")[-1]["text"].startswith("killed by SIGSEGV")


def test_laws():
    generator = torch.Generator().manual_seed(0)
    mu = torch.tensor([0.6, 0.3, 0.1, 0.0])
    tokens = torch.multinomial(mu, 4000, True, generator=generator)
    assert chi_square_p(tokens, mu) > 1e-3
    assert chi_square_p(tokens, torch.tensor([0.5, 0.4, 0.1, 0.0])) < 1e-6
    assert chi_square_p(torch.tensor([3]), mu) == 0.0
    assert binomial_z(60, [0.5] * 100) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--acceptance", "--sections", "wide,tall"], "unknown section 'tall'; allowed: installation"),
        (["--acceptance", "--seconds", "0"], "--seconds"),
        (["--acceptance", "MODEL"], "leave MODEL"),
        (["--sections", "wide"], "only with --acceptance"),
        (["--acceptance", "--output", "/dev/null/x"], "--output"),
    ],
)
def test_wrong_arguments(arguments, part):
    with pytest.raises(UserError, match=part):
        main(arguments)
