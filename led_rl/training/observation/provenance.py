"""What a run was made with: recipe, code, packages, machine; kept in the run's folder and with W&B and TensorBoard."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from led_rl.training.preflight import PACKAGES, ROOT

RECORD = "provenance.json"


class Provenance(TrainerCallback):
    """Written by the main process when training begins.

    Attributes:
        recipe: the recipe's values, if the run has one.
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self.recipe: dict[str, Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        found = facts(self._trainer.accelerator.num_processes)
        if self.recipe is not None:
            found["recipe"] = json.loads(json.dumps(self.recipe, default=str))
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).write_text(json.dumps(found, indent=2))
        if "wandb" in (args.report_to or []):
            import wandb

            if wandb.run is not None:
                wandb.run.config.update({"led_rl": found}, allow_val_change=True)
        for callback in self._trainer.callback_handler.callbacks:
            writer = getattr(callback, "tb_writer", None)  # TensorBoard's
            if writer is not None:
                writer.add_text("led_rl", f"```json\n{json.dumps(found, indent=2)}\n```")


def facts(processes: int) -> dict[str, Any]:
    """Code, packages and machine. `git_revision` is None outside of a checkout, and ends in `+changes` if files differ
    from it; `packages` holds those that are installed."""
    versions = {}
    for name in (*PACKAGES, "wandb"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    machine = {"python": platform.python_version(), "device": device, "processes": processes}
    return {"git_revision": git_revision(ROOT), "packages": versions, **machine}


def git_revision(folder: Path) -> str | None:
    """The commit of a checkout, None where led_rl's code is not part of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "led_rl/led.py")
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
