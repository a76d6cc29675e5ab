"""`led-rl evaluate` as a user starts it: from a clean shell, with vLLM, killed and resumed."""

import json
import re
import shutil
import signal
import subprocess
import time

import pytest
from chromium import BROWSER, tab
from conftest import save_tiny_model
from subprocesses import BIN, ROOT, clean_shell

from led_rl.evaluation.completion_log import read_completions
from led_rl.evaluation.records import read_manifest, read_records
from led_rl.reporting.evaluation.folder import read_evaluation

SMALL = ("--max-tokens", "24", "--depth", "4", "--k", "6", "--max-num-seqs", "8", "--chunk", "4")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows as GSM8K and AIME write them."""
    folder = tmp_path_factory.mktemp("rows")
    gsm8k = [{"question": f"{i} apples and {i} more?", "answer": f"so <<{i}+{i}>>\n#### 1,{i:03d}"} for i in range(8)]
    aime = [{"ID": f"2024-I-{i}", "Problem": f"Find ${i}$.", "Answer": 30 + i} for i in range(4)]
    for name, content in (("gsm8k", gsm8k), ("aime24", aime)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return folder


def evaluation(output, *arguments):
    command = [str(BIN / "led-rl"), "evaluate", *map(str, arguments), *SMALL, "--output", str(output)]
    return subprocess.Popen(
        command, cwd=ROOT, env=clean_shell(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )  # fmt: skip


def finished(process, status=0):
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == status, printed[-6000:]
    return printed


def comparable(folder):
    """Rows without times, and without means of LED's statistics: they follow the batch in their last digits."""
    rows = [{key: value for key, value in row.items() if key != "wall_s"} for row in read_records(folder)]
    completions = []
    for row in read_completions(folder):
        counted = (
            None if row["statistics"] is None else [row["statistics"][key] for key in ("rows", "explored", "depth")]
        )
        kept = {key: value for key, value in row.items() if key not in ("wall_s", "statistics")}
        completions.append(kept | {"statistics": counted})
    return [sorted(json.dumps(row, sort_keys=True) for row in part) for part in (rows, completions)]


def adapter_of(base, folder):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(tiny_model, rows, tmp_path_factory):
    """Folder and output of a recipe's run from a clean shell, on several architectures."""
    folder = tmp_path_factory.mktemp("evaluated")
    run = folder / "grpo"
    shutil.copytree(save_tiny_model(folder / "other", layers=5, seed=3), run / "checkpoint-10")
    models = [f"base={tiny_model}", f"adapter={adapter_of(tiny_model, folder / 'adapter')}", f"grpo={run}"]
    benchmarks = [f"{name}={rows / name}.jsonl" for name in ("gsm8k", "aime24")]
    arguments = ["recipes/evaluate_led.yaml", "--checkpoints", *models, "--benchmarks", *benchmarks, "--n", "2"]
    return folder / "out", finished(evaluation(folder / "out", *arguments, "--max-tokens", "16"))


def test_the_recipe_runs_from_a_clean_shell_on_several_architectures(evaluated):
    folder, printed = evaluated
    arms = ["standard top_p 0.95 top_k 20", "standard", "top_k_control", "led"]
    records = [row for row in read_records(folder) if row["kind"] == "problem"]
    labels = ("base", "adapter", "grpo/checkpoint-10")
    assert {(row["checkpoint"], row["benchmark"], row["arm"]) for row in records} == {
        (label, benchmark, arm) for label in labels for benchmark in ("gsm8k", "aime24") for arm in arms
    }
    assert len(records) == 3 * 4 * (8 + 4)
    texts = {}
    explored = drawn = 0
    for row in read_completions(folder):
        texts.setdefault(row["checkpoint"], []).append(row["text"])
        assert len(row["thinking"]) == len(row["token_ids"])
        if row["arm"] == "led":
            assert len(row["explored"]) == len(row["token_ids"])
            explored += row["explored"].count("1")
            drawn += row["statistics"]["explored"]
        elif row["arm"] == "standard":
            assert row["explored"] == ""
    assert explored == drawn > 0  # what each token says adds up to what the engine counted
    assert len({tuple(each[:8]) for each in texts.values()}) == 3  # each checkpoint's own weights
    assert "mean" in printed
    assert "every completion was cut off at max_tokens" in printed
    assert "led − standard top_p 0.95 top_k 20" in printed
    manifest = read_manifest(folder)
    assert manifest["environment"]["versions"]["torch"]
    assert manifest["benchmarks"]["aime24"]["reward"] == "math_answer"


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium: apt-get install chromium")
def test_its_page_marks_the_tokens_that_led_explored(evaluated, tmp_path):
    folder, _ = evaluated
    places = read_evaluation(folder).places
    rows = list(read_evaluation(folder).completions(places))
    row = next(row for row in rows if row["arm"] == "led" and "1" in row["explored"])
    with tab(tmp_path) as page:
        page.open(folder / "report.html")
        page.wait_for("document.getElementById('browser')?.dataset.ready")
        for name in ("benchmark", "checkpoint", "arm"):
            chosen = f"[...document.querySelectorAll('#filter-{name} option')]"
            chosen += f".find(option => option.textContent === {row[name]!r}).value"
            page.run(f"(() => {{ const list = document.querySelector('#filter-{name}'); list.value = {chosen};"
                     "list.dispatchEvent(new Event('change')); })()")  # fmt: skip
        cells = f"r.cells[0].textContent === {row['problem']!r} && r.cells[1].textContent === '{row['sample']}'"
        page.run(f"[...document.querySelectorAll('#rows tr')].find(r => {cells}).click()")
        page.wait_for("document.querySelector('#side-a pre span')")
        marked = "document.querySelectorAll('#side-a pre .explored').length"
        page.wait_for(f"{marked} === {row['explored'].count('1')}")
        assert page.run("document.querySelector('#side-a pre').textContent").strip()
        assert page.errors == []


def test_the_readme_s_command_on_rows_of_one_s_own(tiny_model, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^led-rl evaluate (--checkpoints .*--data .*)$", readme, re.MULTILINE)
    rows = [{"problem": f"{i} + {i}?", "answer": 2 * i} for i in range(6)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [{"Qwen/Qwen3-0.6B": tiny_model}.get(word, word) for word in command.split()]
    ran = subprocess.run(
        [str(BIN / "led-rl"), "evaluate", *words, *SMALL, "--n", "2"],
        cwd=tmp_path, env=clean_shell(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-6000:]
    assert "led − top_k_control" in ran.stdout
    assert "semaphore" not in ran.stderr
    records = [row for row in read_records(tmp_path / "runs" / "evaluation") if row["kind"] == "problem"]
    assert len(records) == 3 * 6


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ended_after(process, path, count, how):
    """Sends the signal once the file has `count` lines; returns what was printed."""
    until = time.monotonic() + 300
    while lines(path) < count and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(how)
    return process.communicate(timeout=60)[0]


def children_of(process):
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in found]


def test_a_killed_run_and_two_engines_end_like_one_undisturbed_run(tiny_model, rows, tmp_path):
    arguments = ["--checkpoints", f"base={tiny_model}", "--benchmarks", f"gsm8k={rows}/gsm8k.jsonl", "--n", "16"]
    finished(evaluation(tmp_path / "whole", *arguments))
    broken = tmp_path / "broken" / "completions.jsonl"
    process = evaluation(broken.parent, *arguments)
    ended_after(process, broken, 11, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    after_kill = lines(broken)
    process = evaluation(broken.parent, *arguments)
    printed = ended_after(process, broken, after_kill + 1, signal.SIGINT)
    assert process.returncode == 130, printed
    assert "led-rl: interrupted" in printed
    assert "Traceback" not in printed
    done = lines(broken)
    assert after_kill + 1 <= done < 8 * 3 * 16
    printed = finished(evaluation(broken.parent, *arguments, "--data-parallel", "2"))
    assert comparable(broken.parent) == comparable(tmp_path / "whole")
    assert lines(broken) == lines(tmp_path / "whole" / "completions.jsonl")  # nothing was generated twice
    times = [row["wall_s"] for row in read_records(broken.parent) if row["kind"] == "chunk"]
    assert 1 <= times.count(None) <= 2  # blocks that were interrupted do not count


def test_an_engine_that_cannot_start_is_one_line(tiny_model, rows, tmp_path):
    arguments = ["--checkpoints", tiny_model, "--benchmarks", f"gsm8k={rows}/gsm8k.jsonl"]
    arguments += ["--engine-arguments", json.dumps({"num_gpu_blocks_override": 1})]
    printed = finished(evaluation(tmp_path / "out", *arguments), status=2)
    assert printed.splitlines()[-1].startswith("error: the engine failed: ")
    assert not (tmp_path / "out" / "completions.jsonl").exists()
