"""`accelerate launch led_rl/train.py RECIPE.yaml [--key value ...]`: check, build, resume, train, save."""

import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from led_rl.training.recipe import Recipe
    from led_rl.training.trainer import LEDGRPOTrainer

RECORD = "recipe.json"
# What may differ when a run goes on: how long, and how it is watched.
FREE_TO_CHANGE = {
    "max_steps", "num_train_epochs", "save_steps", "save_strategy", "save_total_limit", "logging_steps", "report_to",
    "run_name", "wandb_mode", "resume", "check_only", "log_completions", "num_completions_to_print", "disable_tqdm",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 with one clear line on stderr when the recipe cannot be run."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prepare_environment()
    from led_rl.data import DatasetError
    from led_rl.training.checks import CheckError, check_recipe
    from led_rl.training.recipe import RecipeError, help_text, load_recipe
    from led_rl.training.rollout import RolloutServerError
    from rewards import RewardError

    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0 if arguments else 2
    try:
        recipe = load_recipe(arguments)
        if is_finished(recipe):
            print(f"{recipe.output_dir} holds the finished run of this recipe; nothing to do")
            return 0
        checkpoint = last_checkpoint(recipe)
        checked = check_recipe(recipe)
        trainer = build_trainer(recipe, checked)
    except (RecipeError, CheckError, DatasetError, RewardError, RolloutServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if recipe.run.check_only:
        print(f"{recipe.path}: sound; stopping before training, as check_only asks")
        return 0
    if trainer.accelerator.is_main_process:
        if recipe.run.resume == "never":
            set_aside(recipe.output_dir)
        record = recipe.output_dir / RECORD
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(recipe.values, indent=2, default=str))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()  # last: its presence says that the run is whole
    return 0


def prepare_environment() -> None:
    """What must be set before torch and vLLM are imported; on a machine with GPUs, nothing."""
    import importlib.util

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if importlib.util.find_spec("vllm") is None or not _has_gpu():
        from led_rl.engines.environment import set_cpu_environment

        set_cpu_environment()
        # DeepSpeed would compile its shared-memory collective for minutes, and a killed build hangs the next one.
        import deepspeed.ops

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


def build_trainer(recipe: "Recipe", checked: Any) -> "LEDGRPOTrainer":
    """Loads the weights and starts the rollout engine."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from led_rl.training.checks import trainer_arguments
    from led_rl.training.progress import StepProgress
    from led_rl.training.trainer import LEDGRPOTrainer

    training = recipe.training
    if recipe.run.wandb_mode:
        os.environ["WANDB_MODE"] = recipe.run.wandb_mode
    os.environ.setdefault("WANDB_DIR", str(recipe.output_dir))
    recipe.output_dir.mkdir(parents=True, exist_ok=True)
    trainer = LEDGRPOTrainer(**trainer_arguments(recipe, checked))
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if not training.disable_tqdm:
        trainer.add_callback(StepProgress())
    return trainer


def is_finished(recipe: "Recipe") -> bool:
    """Whether the output folder holds a finished run of this very recipe."""
    state = recipe.output_dir / "trainer_state.json"
    if recipe.run.resume == "never" or not state.is_file():
        return False
    _refuse_other_recipe(recipe)
    steps = json.loads(state.read_text())
    wanted = recipe.training.max_steps if recipe.training.max_steps > 0 else steps["max_steps"]
    return steps["global_step"] >= wanted


def last_checkpoint(recipe: "Recipe") -> str | None:
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


def _refuse_other_recipe(recipe: "Recipe") -> None:
    from led_rl.training.recipe import RecipeError

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


if __name__ == "__main__":
    sys.exit(main())
