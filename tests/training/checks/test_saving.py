"""What would keep a run from saving is found before weights are loaded: a folder, a disk, a step within a rollout."""

import shutil
import subprocess
import sys

import pytest
from recipe_files import Built
from subprocesses import clean_shell, run_command

from led_rl import train
from led_rl.training.checks.recipe import check_recipe
from led_rl.training.recipe import load_recipe


def test_a_folder_that_cannot_be_made(run_file, refused, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused([run_file(output_dir=str(tmp_path / "file" / "out"))])
    for part in ("run.yaml: output_dir: ", str(tmp_path / "file" / "out"), "cannot be written (Not a directory)"):
        assert part in message


def test_other_processes_than_the_first_write_nothing(run_file, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "file").write_text("")
    with pytest.raises(Built):
        train.main([run_file(output_dir=str(tmp_path / "file" / "out"))])


def test_a_disk_that_is_full_or_too_small(run_file, tmp_path):
    """Real file systems, of which this test's processes alone know."""
    space = ("unshare", "--user", "--map-root-user", "--mount", "bash", "-c")
    if shutil.which("unshare") is None or subprocess.run([*space, "mount -t tmpfs none /mnt"], check=False).returncode:
        pytest.skip("this machine gives no user namespaces, in which a test can mount a small disk")
    recipe, full, small = run_file(), tmp_path / "full", tmp_path / "small"
    code = "import sys\nfrom led_rl import train\nfor folder in sys.argv[2:]:\n"
    code += "    assert train.main([sys.argv[1], '--output_dir', folder]) == 2\n"
    (tmp_path / "code.py").write_text(code)
    commands = [
        f"mkdir {full} {small}",
        f"mount -t tmpfs -o size=64k none {full}",
        f"head -c 64k /dev/zero > {full}/fill",
        f"mount -t tmpfs -o size=256k none {small}",
        f"{sys.executable} {tmp_path / 'code.py'} {recipe} {full} {small}",
    ]
    output = run_command(*space, " && ".join(commands), **clean_shell())
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2, output
    assert f"output_dir: {full} cannot be written (No space left on device)" in errors[0]
    assert f"output_dir: {small} has 0.000244 GiB free, and a checkpoint and the final model take about " in errors[1]
    assert "Traceback" not in output


# 8 micro-batches of a generation; how many of them a step takes; save_steps asked for, and what becomes of it
@pytest.mark.parametrize(("taken", "asked", "rounded"), [(2, 3, 4), (2, 4, 4), (2, 0.5, 0.5), (8, 3, 3), (3, 2, 8)])
def test_saves_end_whole_rollouts(run_file, capsys, taken, asked, rounded):
    window = {2: 4, 8: 1, 3: 8}[taken]
    path = run_file(
        steps_per_generation=4, num_iterations=2, gradient_accumulation_steps=taken, save_steps=asked, max_steps=8,
        per_device_train_batch_size=4,
    )  # fmt: skip
    recipe = load_recipe([path])
    check_recipe(recipe)
    assert recipe.training.save_steps == rounded
    told = capsys.readouterr().out
    if asked == rounded and asked >= 1:
        assert "generations end" not in told
    else:
        notice = f"save_steps: {asked} is {rounded} here: " if asked >= 1 else "warning: "
        assert f"{notice}generations end with every step that {window} divides (steps_per_generation 4, " in told
    assert recipe.values["save_steps"] == asked  # the run's record keeps what was given


def test_an_adapter_that_fits_no_layer(run_file, refused):
    message = refused([run_file(use_peft=True, lora_target_modules=["k_prjo"])])
    assert "run.yaml: use_peft: Target modules k_prjo not found" in message


def test_a_warning_says_how_few_checkpoints_fit(run_file, monkeypatch, capsys):
    recipe = load_recipe([run_file()])
    from led_rl.training.checks import saving

    free = 2 * sum(saving.bytes_of_checkpoint(recipe, check_config(recipe)))
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda folder: type("Disk", (), {"free": free}))
    check_recipe(recipe)
    assert "warning: " not in capsys.readouterr().out
    recipe = load_recipe([run_file(save_steps=1, max_steps=9)])
    check_recipe(recipe)
    assert "this run writes 9 more checkpoints" in capsys.readouterr().out
    recipe = load_recipe([run_file(save_steps=1, max_steps=9, save_total_limit=1)])
    check_recipe(recipe)
    assert "warning: " not in capsys.readouterr().out


def check_config(recipe):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(recipe.model.model_name_or_path)
