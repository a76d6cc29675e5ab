"""A real run of two processes, each with an engine of its own, in which one computes a reward for very long."""

import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from conftest import save_tiny_model
from subprocesses import BIN, ROOT, run_command
from test_evaluation_log import records_of, values
from transformers import AutoTokenizer

from led_rl.training.observation.provenance import git_revision


def share(text):
    """What tests/probes/letters_reward.py counts."""
    return sum("a" <= letter <= "m" for letter in text) / max(len(text), 1)


STEPS, ROWS = 4, 16  # ROWS: completions of a step, over both processes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    model = save_tiny_model(folder / "model", layers=6)
    rows = [json.dumps({"problem": f"{i}+1?", "answer": str(i + 1)}) for i in range(16)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    recipe = {
        "model_name_or_path": str(model), "dtype": "float32", "dataset": "rows.jsonl", "answer_column": "answer",
        "rewards": [{"name": "slow_reward:share_of_letters_slowly"}], "output_dir": str(folder / "out"),
        "decoding": "led", "led_depth": 4, "vllm_max_model_length": 128, "use_cpu": True, "ddp_backend": "gloo",
        "bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False, "max_steps": STEPS,
        "save_steps": 100, "logging_steps": 2, "max_completion_length": 12, "num_generations": 4,
        "per_device_train_batch_size": ROWS // 2, "log_completions": True, "num_completions_to_print": 1,
        "report_to": "wandb", "wandb_mode": "offline", "watchdog_factor": 2.0, "watchdog_floor": 4.0,
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(recipe))
    log = folder / "log"
    command = f"exec {BIN}/torchrun --standalone --nproc-per-node 2 led_rl/train.py {folder}/run.yaml > {log} 2>&1"
    probes = str(ROOT / "tests" / "probes")
    try:
        run_command("bash", "-c", command, timeout=900, PYTHONPATH=probes, WATCHED_LOG=str(log), WANDB_SILENT="true")
    except AssertionError as error:
        raise AssertionError(log.read_text()[-6000:]) from error
    history = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
    logged = [entry for entry in history if "reward" in entry]
    return SimpleNamespace(out=folder / "out", model=model, said=log.read_text(), logged=logged)


def test_the_watchdog_names_the_process_and_the_stage_that_the_others_wait_for(run):
    lines = [line for line in run.said.splitlines() if f"step {STEPS} has taken" in line]
    assert lines
    told = r"\d+ s so far \(the median is [\d.]+ s\): rank 1: reward for \d+ s; rank 0: waiting for the others' rewards"
    assert re.search(told, lines[0]), lines


def test_the_time_of_both_processes_is_split(run):
    assert [entry["step"] for entry in run.logged] == [2, 4]
    slow = run.logged[1]
    for entry in run.logged:
        parts = ("rollout", "reward", "weight_sync", "training", "idle")
        whole = [sum(entry[f"time_by_rank/{part}_{rank}"] for part in parts) for rank in (0, 1)]
        # the first process begins its first step later, having opened W&B's run
        assert max(whole) == pytest.approx(entry["time/step"], rel=0.05, abs=0.2)
    waited = slow["time_by_rank/reward_1"]
    assert slow["time/reward"] >= waited > 0.5  # seconds, a mean of two steps
    assert slow["time_by_rank/reward_0"] < 0.5 * waited
    assert slow["time_by_rank/idle_0"] > 0.5 * waited


def test_the_completions_of_every_step_of_all_processes_are_written(run):
    files = sorted((run.out / "completions").iterdir())
    assert [path.name for path in files] == [f"completions_{step:05d}.parquet" for step in range(1, STEPS + 1)]
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    prompts = set()
    for step, path in enumerate(files, 1):
        table = pd.read_parquet(path)
        assert set(table["step"]) == {step}
        assert len(table) == ROWS
        prompts |= {prompt[0]["content"] for prompt in table["prompt"]}
        texts = [completion[0]["content"] for completion in table["completion"]]
        assert tokenizer.batch_decode([*table["token_ids"]], skip_special_tokens=True) == texts
        assert table["share_of_letters_slowly"].tolist() == pytest.approx([share(text) for text in texts])
        assert table["advantage"].groupby(table["prompt"].astype(str)).sum().abs().max() < 1e-4
        for ids, shares, marked in zip(table["token_ids"], table["explored"], table["marked"], strict=True):
            whole = tokenizer.decode([*ids], skip_special_tokens=False)
            assert len(shares) == len(ids)
            assert re.sub("[⟦⟧]", "", marked) == whole
            runs = re.findall("⟦(.*?)⟧", marked, flags=re.DOTALL)
            pieces = [tokenizer.decode([token], skip_special_tokens=False) for token in ids]
            explored = [piece for piece, share in zip(pieces, shares, strict=True) if share >= 0.5]
            assert "".join(runs) == "".join(explored)
        shares = table["explored"].explode().dropna().astype(float)
        assert 0 < shares.mean() < 1
    assert len(prompts) > ROWS // 4


def test_only_the_first_process_speaks_and_logs(run):
    for step in (2, 4):
        assert len(re.findall(rf"step {step}/{STEPS} \| reward", run.said)) == 1
        assert len(re.findall(rf" Step {step} ", run.said)) == 1  # TRL's print of completions
    assert re.search(rf"step 2/{STEPS} \| .* \| \d:\d\d:\d\d left", run.said)
    assert len(list(run.out.glob("wandb/offline-run-*"))) == 1


def test_w_and_b_holds_what_the_run_was_made_with_and_every_table(run):
    (path,) = run.out.glob("wandb/offline-run-*/*.wandb")
    records = list(records_of(path))
    updates = [record.run.config.update for record in records if record.HasField("run")]
    updates += [record.config.update for record in records if record.HasField("config")]
    config = {update.key: json.loads(update.value_json) for group in updates for update in group}
    made_with = config["led_rl"]
    assert made_with == json.loads((run.out / "provenance.json").read_text())
    assert made_with["git_revision"] == git_revision(ROOT)
    assert made_with["processes"] == 2
    assert made_with["packages"]["trl"]
    assert made_with["recipe"]["rewards"] == [{"name": "slow_reward:share_of_letters_slowly"}]
    assert config["led_depth"] == 4
    history = [values(record.history.item) for record in records if record.HasField("history")]
    tables = {entry["train/global_step"] for entry in history if any(name.startswith("completions") for name in entry)}
    assert tables == set(range(1, STEPS + 1))
    logged = [entry for entry in history if "train/time/idle" in entry]
    assert [entry["train/global_step"] for entry in logged] == [2, 4]
    rows = [len(json.loads(path.read_text())["data"]) for path in run.out.rglob("*.table.json")]
    assert sum(rows) == STEPS * ROWS
