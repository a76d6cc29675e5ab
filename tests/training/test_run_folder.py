"""Where a run goes on: from the newest whole checkpoint of the same recipe; and that one run writes into a folder."""

import json
import logging
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import ClassVar

import pytest
import torch
from conftest import save_tiny_model
from recipe_files import Built
from safetensors.torch import save_file
from subprocesses import ROOT

from led_rl import train
from led_rl.training import run_folder
from led_rl.training.checkpoints import flaw_of
from led_rl.training.recipe import load_recipe


def save_checkpoint(folder, step, processes=1):
    """The files of a checkpoint that transformers writes, with a small tensor in each."""
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(64)}, folder / "model.safetensors")
    ranks = [""] if processes == 1 else [f"_{rank}" for rank in range(processes)]
    for name in ("optimizer.pt", "scheduler.pt", *(f"rng_state{rank}.pth" for rank in ranks)):
        torch.save({"state": torch.zeros(64)}, folder / name)
    (folder / "config.json").write_text("{}")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": step}))


def leave_run(folder, values, checkpoints=(), finished=None):
    """What a run leaves behind: its record, whole checkpoints and, if it is finished, its model and state."""
    for step in checkpoints:
        save_checkpoint(folder / f"checkpoint-{step}", step)
    folder.mkdir(exist_ok=True)
    (folder / run_folder.RECORD).write_text(json.dumps(values, default=str))
    if finished is not None:
        save_file({"weight": torch.zeros(64)}, folder / "model.safetensors")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": finished, "max_steps": finished}))


def cut(path, part=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


DAMAGES = [
    (name, part)
    for name in ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
    for part in (None, 0.0, 0.5, 0.98)
]


@pytest.mark.parametrize(("name", "part"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_one_warning(run_file, tmp_path, capsys, name, part):
    recipe = load_recipe([run_file()])
    leave_run(tmp_path / "out", recipe.values, (2, 9, 10))
    newest = tmp_path / "out" / "checkpoint-10"
    assert flaw_of(newest) is None
    if part is None:
        (newest / name).unlink()
    else:
        cut(newest / name, part)
    found = run_folder.where_to_resume(recipe)
    assert (found.checkpoint, found.damaged) == (tmp_path / "out" / "checkpoint-9", [newest])
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    for text in ("checkpoint-10 (", name.split(".")[0], "going on from checkpoint-9"):
        assert text in warnings[0]


def test_shards_must_all_be_there(tmp_path):
    save_checkpoint(tmp_path / "checkpoint-1", 1)
    shard = tmp_path / "checkpoint-1" / "model-00002-of-00002.safetensors"
    shutil.move(tmp_path / "checkpoint-1" / "model.safetensors", shard)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": shard.name}}
    (tmp_path / "checkpoint-1" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert flaw_of(tmp_path / "checkpoint-1") == "no model-00001-of-00002.safetensors"
    shutil.copy(shard, tmp_path / "checkpoint-1" / "model-00001-of-00002.safetensors")
    assert flaw_of(tmp_path / "checkpoint-1") is None


def test_deepspeed_keeps_optimizer_states_in_a_folder(tmp_path):
    checkpoint = tmp_path / "checkpoint-1"
    save_checkpoint(checkpoint, 1, processes=2)
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "latest").write_text("global_step1")
    assert flaw_of(checkpoint) == "no optimizer states in global_step1"
    (checkpoint / "global_step1").mkdir()
    for rank in (0, 1):
        shard = checkpoint / "global_step1" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"state": torch.zeros(64)}, shard)
    assert flaw_of(checkpoint) is None
    cut(shard)
    assert flaw_of(checkpoint) == f"{shard.name} is cut or empty"


def test_no_whole_checkpoint_means_the_first_step(run_file, tmp_path, capsys):
    recipe = load_recipe([run_file()])
    assert run_folder.where_to_resume(recipe) == run_folder.Resume(None, [])
    leave_run(tmp_path / "out", recipe.values, (2,))
    (tmp_path / "out" / "checkpoint-2" / "optimizer.pt").unlink()
    assert run_folder.where_to_resume(recipe).checkpoint is None
    assert "starting from step 0" in capsys.readouterr().out


def test_other_folders_are_not_the_run_s_checkpoints(run_file, tmp_path):
    recipe = load_recipe([run_file()])
    leave_run(tmp_path / "out", recipe.values, (2, 10))
    for name in ("checkpoint-best", "checkpoint-99.bak", "checkpoint-99-copy", "my-checkpoint-99"):
        shutil.copytree(tmp_path / "out" / "checkpoint-2", tmp_path / "out" / name)
    assert run_folder.where_to_resume(recipe).checkpoint == tmp_path / "out" / "checkpoint-10"
    assert run_folder.where_to_resume(load_recipe([run_file(resume="never")])).checkpoint is None
    with pytest.raises(Built):
        train.main([run_file(max_steps=50)])  # a longer run goes on


def test_the_limit_of_checkpoints_leaves_copies_alone(tmp_path, models):
    from datasets import Dataset

    from led_rl.training.config import LEDGRPOConfig
    from led_rl.training.trainer import LEDGRPOTrainer

    tied = save_tiny_model(tmp_path / "tied", layers=2, tie_word_embeddings=True)
    args = LEDGRPOConfig(
        str(tmp_path / "out"), max_steps=4, save_steps=1, save_total_limit=2, per_device_train_batch_size=2,
        num_generations=2, max_completion_length=2, use_cpu=True, bf16=False, disable_tqdm=True, report_to="none",
        model_init_kwargs={"dtype": "float32"},
    )  # fmt: skip
    for name in ("checkpoint-best", "checkpoint-1-copy"):
        save_checkpoint(tmp_path / "out" / name, 1)
    rows = Dataset.from_dict({"prompt": ["a", "b", "c", "d"]})
    LEDGRPOTrainer(str(tied), lambda completions, **_: [float(len(c)) for c in completions], args, rows).train()
    names = {path.name for path in (tmp_path / "out").glob("checkpoint-*")}
    assert names == {"checkpoint-best", "checkpoint-1-copy", "checkpoint-3", "checkpoint-4"}
    assert flaw_of(tmp_path / "out" / "checkpoint-4") is None  # a tied head is saved once

    class Resumed(LEDGRPOTrainer):
        """Notes what it is warned of when it loads."""

        missing: ClassVar = []

        def _issue_warnings_after_load(self, load_result):
            self.missing.extend(load_result.missing_keys)
            super()._issue_warnings_after_load(load_result)

    args.max_steps = 5
    with warned_of() as warnings:
        trainer = Resumed(str(tied), lambda completions, **_: [float(len(c)) for c in completions], args, rows)
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert trainer.missing == ["lm_head.weight"]
    assert not [line for line in warnings if "missing keys" in line]


@contextmanager
def warned_of():
    """The messages of transformers' trainer while open."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("transformers.trainer")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def test_a_renamed_run_and_paths_spelt_otherwise_are_the_same_run(run_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    run_folder.write_record(load_recipe([run_file(dataset="rows.jsonl")]))
    save_checkpoint(tmp_path / "out" / "checkpoint-2", 2)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run_folder.where_to_resume(load_recipe([run_file(dataset="rows.jsonl")])).checkpoint.name == "checkpoint-2"
    (tmp_path / "out").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe([run_file(output_dir="moved", dataset="rows.jsonl")])
    assert run_folder.where_to_resume(recipe).checkpoint.name == "checkpoint-2"


def test_another_number_of_processes_is_said(run_file, tmp_path, capsys, refused):
    recipe = load_recipe([run_file()])
    leave_run(tmp_path / "out", recipe.values)
    save_checkpoint(tmp_path / "out" / "checkpoint-4", 4, processes=2)
    assert run_folder.where_to_resume(recipe).checkpoint.name == "checkpoint-4"
    assert "was written by 2 processes, and this run has 1" in capsys.readouterr().out


def test_a_finished_run_is_left_alone(run_file, tmp_path, capsys):
    leave_run(tmp_path / "out", load_recipe([run_file()]).values, (2,), finished=2)
    assert train.main([run_file()]) == 0
    assert "nothing to do" in capsys.readouterr().out
    for change in ({"max_steps": 3}, {"resume": "never"}):
        with pytest.raises(Built):
            train.main([run_file(**change)])


def test_a_final_model_that_is_gone_is_made_again(run_file, tmp_path, capsys):
    out = tmp_path / "out"
    leave_run(out, load_recipe([run_file()]).values, (1, 2), finished=2)
    for damage in (lambda path: path.unlink(), cut):
        damage(out / "model.safetensors")
        assert train.main([run_file()]) == 0
        assert f"made again from {out / 'checkpoint-2'}" in capsys.readouterr().out
        assert (out / "model.safetensors").read_bytes() == (out / "checkpoint-2" / "model.safetensors").read_bytes()
        assert not (out / "optimizer.pt").exists()
    (out / "model.safetensors").unlink()
    shutil.rmtree(out / "checkpoint-2")
    with pytest.raises(Built):  # trained again from the first step on
        train.main([run_file()])


@pytest.mark.parametrize("content", ["", '{"global_st'])
def test_a_final_state_that_was_cut_is_not_a_finished_run(run_file, tmp_path, content):
    leave_run(tmp_path / "out", load_recipe([run_file()]).values, (2,), finished=2)
    (tmp_path / "out" / "trainer_state.json").write_text(content)
    with pytest.raises(Built):
        train.main([run_file()])


def test_the_run_of_another_recipe_is_refused_with_the_differences(run_file, refused, tmp_path):
    leave_run(tmp_path / "out", load_recipe([run_file()]).values, (2,), finished=2)
    message = refused([run_file(led_k=4, decoding="standard")])
    for part in ("run.yaml", str(tmp_path / "out"), "decoding: 'led' then, 'standard' now", "led_k: None then, 4 now"):
        assert part in message
    assert "--resume never" in message
    with pytest.raises(Built):
        train.main([run_file(led_k=4, resume="never")])
    (tmp_path / "out" / run_folder.RECORD).write_text("{")
    assert "recipe.json is no JSON" in refused([run_file()])


def test_starting_over_sets_the_former_run_aside(run_file, tmp_path):
    recipe = load_recipe([run_file()])
    for n in (1, 2):
        leave_run(tmp_path / "out", recipe.values, (2, 4), finished=2)
        run_folder.set_aside(tmp_path / "out")
        assert (tmp_path / "out" / f"former-{n}" / "checkpoint-2" / "trainer_state.json").is_file()
    assert run_folder.where_to_resume(recipe).checkpoint is None
    assert not run_folder.is_finished(recipe)
    run_folder.set_aside(tmp_path / "out")  # nothing is left to set aside
    assert len(list((tmp_path / "out").glob("former-*"))) == 2


def test_one_run_writes_into_a_folder(run_file, refused, tmp_path):
    code = "import sys, pathlib\nfrom led_rl.training.run_folder import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "out"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        assert f"a run is at work in {tmp_path / 'out'} (process {holder.pid} on " in refused([run_file()])
    finally:
        holder.kill()
        holder.wait()
    with pytest.raises(Built):  # a killed process leaves no lock behind
        train.main([run_file()])
