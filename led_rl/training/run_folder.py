"""The output folder of a run: which recipe it holds, whether it is finished, where it goes on, who writes into it."""

import fcntl
import itertools
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from led_rl.recipe import RecipeError
from led_rl.training.checkpoints import (
    STATE,
    flaw_of,
    flaw_of_model,
    flaw_of_state,
    model_files,
    numbered,
    processes_of,
)
from led_rl.training.config import Recipe

RECORD = "recipe.json"
LOCK = ".lock"

# What may differ when a run goes on: where it lies, how long it is, and how it is watched.
FREE_TO_CHANGE = {
    "max_steps", "num_train_epochs", "save_steps", "save_strategy", "save_total_limit", "logging_steps", "report_to",
    "run_name", "wandb_mode", "resume", "check_only", "log_completions", "num_completions_to_print", "disable_tqdm",
    "output_dir", "eval_strategy", "eval_steps", "eval_on_start", "eval_dataset", "eval_dataset_config",
    "eval_dataset_split", "eval_benchmarks", "eval_rows", "eval_decodings", "eval_samples", "eval_seed",
    "watchdog_factor", "watchdog_floor", "vllm_server_request_timeout",
}  # fmt: skip
PATHS = ("dataset", "deepspeed", "fsdp_config", "model_name_or_path")  # compared as absolute paths


@dataclass
class Resume:
    """Where a run goes on: its newest whole checkpoint, and newer ones that are not whole."""

    checkpoint: Path | None
    damaged: list[Path]


def is_finished(recipe: Recipe) -> bool:
    """Whether the output folder holds a finished run of this very recipe, its final model included.

    A final model that is gone is made again from the last checkpoint, if that is the run's last step.
    """
    state = recipe.output_dir / STATE
    if recipe.run.resume == "never" or flaw_of_state(state):
        return False
    _refuse_other_recipe(recipe)
    steps = json.loads(state.read_text())
    wanted = recipe.training.max_steps if recipe.training.max_steps > 0 else steps["max_steps"]
    if steps["global_step"] < wanted:
        return False
    flaw = flaw_of_model(recipe.output_dir)
    if flaw is None:
        return True
    last = next((path for path in numbered(recipe.output_dir) if flaw_of(path) is None), None)
    if last is None or json.loads((last / STATE).read_text())["global_step"] != steps["global_step"]:
        return False
    if flaw_of_model(last):  # the run saves shards alone
        return True
    if is_main_process():
        for path in model_files(last):
            shutil.copy2(path, recipe.output_dir / path.name)
        print(f"the final model was not whole ({flaw}); made again from {last}")
    return True


def where_to_resume(recipe: Recipe) -> Resume:
    """The newest whole checkpoint; says in one warning which newer ones are not, and why."""
    if recipe.run.resume == "never":
        return Resume(None, [])
    damaged: list[Path] = []
    reasons: list[str] = []
    for checkpoint in numbered(recipe.output_dir):
        flaw = flaw_of(checkpoint)
        if flaw is None:
            break
        damaged.append(checkpoint)
        reasons.append(f"{checkpoint.name} ({flaw})")
    else:
        checkpoint = None
    if checkpoint is None and not damaged:
        return Resume(None, [])
    _refuse_other_recipe(recipe)
    if reasons and is_main_process():
        instead = f"going on from {checkpoint.name}" if checkpoint else "there is no whole one: starting from step 0"
        print(f"warning: {recipe.output_dir}: not whole: {', '.join(reasons)}; {instead}")
    if checkpoint is not None:
        _say_other_processes(recipe, checkpoint)
        if is_main_process():
            print(f"resuming from {checkpoint}")
    return Resume(checkpoint, damaged)


def set_aside(folder: Path, paths: list[Path] | None = None) -> None:
    """Moves checkpoints into a folder of their own, lest a later resume, or TRL's count of checkpoints, takes them.

    Args:
        paths: what to move; default: all that a former run left in `folder`.
    """
    left = [
        path
        for path in (paths or [*folder.glob("checkpoint-*"), folder / "completions", folder / STATE])
        if path.exists()
    ]
    if left:
        former = next(path for n in itertools.count(1) if not (path := folder / f"former-{n}").exists())
        former.mkdir()
        for path in left:
            path.rename(former / path.name)
        print(f"{', '.join(path.name for path in left)} of the former run: now in {former}")


def write_record(recipe: Recipe) -> None:
    """Leaves the recipe in the run's folder; files and folders by their whole paths, to be known from anywhere."""
    given = {key: recipe.values.get(key) for key in PATHS}
    whole = {
        key: str(Path(path).resolve()) for key, path in given.items() if isinstance(path, str) and Path(path).exists()
    }
    (recipe.output_dir / RECORD).write_text(json.dumps(recipe.values | whole, indent=2, default=str))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run a folder: raises RecipeError if another process writes there; freed when the process ends, however."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RecipeError(
                f"output_dir: a run is at work in {folder} ({file.read().strip()}); wait for it, or give another "
                "output_dir"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def is_main_process() -> bool:
    """Whether this is the process of rank 0, by its environment: no process group exists yet."""
    return os.environ.get("RANK", "0") == "0"


def _say_other_processes(recipe: Recipe, checkpoint: Path) -> None:
    then, now = processes_of(checkpoint), int(os.environ.get("WORLD_SIZE", "1"))
    if then == now:
        return
    change = f"{checkpoint} was written by {then} processes, and this run has {now}"
    if recipe.training.deepspeed:
        raise RecipeError(
            f"{recipe.path}: {change}: DeepSpeed's checkpoints need as many as before. Launch {then}, or start over "
            "with --resume never"
        )
    if is_main_process():
        print(f"warning: {change}: batches and random numbers will not be those of an unbroken run")


def _refuse_other_recipe(recipe: Recipe) -> None:
    record = recipe.output_dir / RECORD
    if not record.is_file():
        return
    try:
        before = json.loads(record.read_text())
    except ValueError as error:
        raise RecipeError(
            f"{record} is no JSON ({error}), so that nobody knows which recipe this run had. Mend or delete it, or "
            "give another output_dir"
        ) from error
    now = json.loads(json.dumps(recipe.values, default=str))
    keys = dict.fromkeys([*before, *now])
    changed = [key for key in keys if key not in FREE_TO_CHANGE and not _same(key, before.get(key), now.get(key))]
    if changed:
        differences = "; ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed)
        raise RecipeError(
            f"{recipe.path}: {recipe.output_dir} holds a run of other settings ({differences}). "
            "Give another output_dir, or --resume never to start over"
        )


def _same(key: str, before: Any, now: Any) -> bool:
    if before == now or key not in PATHS or not (isinstance(before, str) and isinstance(now, str)):
        return before == now
    return Path(now).exists() and Path(before).resolve() == Path(now).resolve()
