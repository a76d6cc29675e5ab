"""The output folder of a run: which recipe it holds, whether it is finished, where it goes on."""

import itertools
import json
from pathlib import Path

from led_rl.recipe import RecipeError
from led_rl.training.config import Recipe

RECORD = "recipe.json"


# What may differ when a run goes on: how long, and how it is watched.
FREE_TO_CHANGE = {
    "max_steps", "num_train_epochs", "save_steps", "save_strategy", "save_total_limit", "logging_steps", "report_to",
    "run_name", "wandb_mode", "resume", "check_only", "log_completions", "num_completions_to_print", "disable_tqdm",
}  # fmt: skip


def is_finished(recipe: Recipe) -> bool:
    """Whether the output folder holds a finished run of this very recipe."""
    state = recipe.output_dir / "trainer_state.json"
    if recipe.run.resume == "never" or not state.is_file():
        return False
    _refuse_other_recipe(recipe)
    steps = json.loads(state.read_text())
    wanted = recipe.training.max_steps if recipe.training.max_steps > 0 else steps["max_steps"]
    return steps["global_step"] >= wanted


def last_checkpoint(recipe: Recipe) -> str | None:
    """The last whole checkpoint: `trainer_state.json` is written last, so a folder without one was cut short."""
    if recipe.run.resume == "never":
        return None
    whole = [path.parent for path in recipe.output_dir.glob("checkpoint-*/trainer_state.json")]
    if not whole:
        return None
    _refuse_other_recipe(recipe)
    last = max(whole, key=lambda path: int(path.name.rpartition("-")[2]))
    print(f"resuming from {last}")
    return str(last)


def set_aside(folder: Path) -> None:
    """Moves what a former run left in `folder` into a folder of its own, lest a later resume take it for this run's."""
    left = [path for path in (*folder.glob("checkpoint-*"), folder / "trainer_state.json") if path.exists()]
    if left:
        former = next(path for n in itertools.count(1) if not (path := folder / f"former-{n}").exists())
        former.mkdir()
        for path in left:
            path.rename(former / path.name)
        print(f"starting over; the checkpoints of the former run are in {former}")


def _refuse_other_recipe(recipe: Recipe) -> None:
    record = recipe.output_dir / RECORD
    if not record.is_file():
        return
    before, now = json.loads(record.read_text()), json.loads(json.dumps(recipe.values, default=str))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and key not in FREE_TO_CHANGE]
    if changed:
        differences = "; ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed)
        raise RecipeError(
            f"{recipe.path}: {recipe.output_dir} holds a run of other settings ({differences}). "
            "Give another output_dir, or --resume never to start over"
        )
