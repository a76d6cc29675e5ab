"""`accelerate launch led_rl/train.py RECIPE.yaml [--key value ...]`: check, build, resume, train, save."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from led_rl.training.checks.recipe import Checked
    from led_rl.training.config import Recipe

SAYING = 5.0  # seconds in which the first process says why all end


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0; 2 with one clear line on stderr when the recipe cannot be run; 143 after SIGTERM."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    from led_rl.engines.environment import prepare_training

    prepare_training()
    from led_rl.decoding import UserError
    from led_rl.training.recipe import help_text
    from led_rl.training.stopping import end_with_launcher
    from rewards import RewardError

    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0 if arguments else 2
    end_with_launcher(os.getppid())
    try:
        return _run(arguments)
    except (UserError, RewardError) as error:
        if getattr(error, "everywhere", False) and os.environ.get("RANK", "0") != "0":
            time.sleep(SAYING)  # a launcher that sees this process end would end the one that says it
            return 2
        print("error:", " ".join(str(error).split("\n")), file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    from led_rl.training.build import build_trainer
    from led_rl.training.checks.recipe import check_recipe
    from led_rl.training.evaluation_rows import check_evaluation_rows
    from led_rl.training.recipe import load_recipe
    from led_rl.training.run_folder import (
        is_finished,
        is_main_process,
        locked,
        set_aside,
        where_to_resume,
        write_record,
    )
    from led_rl.training.stopping import STOPPED, stop_on_sigterm

    recipe = load_recipe(arguments)
    folder = recipe.output_dir
    if is_finished(recipe):
        print(f"{folder} holds the finished run of this recipe; nothing to do")
        return 0
    resume = where_to_resume(recipe)
    checked = check_recipe(recipe)
    add_benchmarks(recipe, checked)
    check_evaluation_rows(recipe, checked)
    writes = is_main_process() and not recipe.run.check_only
    with locked(folder) if writes else nullcontext():
        trainer = build_trainer(recipe, checked)
        if recipe.run.check_only:
            print(f"{recipe.path}: sound; stopping before training, as check_only asks")
            return 0
        if writes:
            if recipe.run.resume == "never":
                set_aside(folder)
            elif resume.damaged:
                set_aside(folder, resume.damaged)
            write_record(recipe)
        with stop_on_sigterm(trainer.clock.ask_to_stop):
            trainer.train(resume_from_checkpoint=None if resume.checkpoint is None else str(resume.checkpoint))
        if trainer.clock.stopped:
            if writes:
                print(
                    f"stopped by SIGTERM; checkpoint-{trainer.state.global_step} is saved in {folder}, and the same "
                    "command goes on from there",
                    file=sys.stderr,
                )
            return STOPPED
        trainer.save_model()
        trainer.save_state()  # last: its presence says that the run is whole
    return 0


def add_benchmarks(recipe: "Recipe", checked: "Checked") -> None:
    """Adds the rows and rewards of `eval_benchmarks`; raises UserError or RewardError that names what is wrong."""
    from datasets import Dataset

    from led_rl.evaluation.benchmarks import find_benchmark, read_problems
    from led_rl.training.reward_loading import load_reward_for

    if not recipe.run.eval_benchmarks:
        return
    rows = {} if checked.evaluation_rows is None else {"": checked.evaluation_rows}
    for name in recipe.run.eval_benchmarks:
        benchmark = find_benchmark(name)
        problems = read_problems(benchmark, recipe.run.eval_rows)
        columns = dict.fromkeys(key for problem in problems for key in problem.columns)
        rows[benchmark.name] = Dataset.from_dict(
            {"prompt": [[{"role": "user", "content": problem.problem}] for problem in problems]}
            | {key: [problem.columns.get(key) for problem in problems] for key in columns}
        )
        reward = load_reward_for(checked.tokenizer, benchmark.reward, **benchmark.reward_options)
        checked.evaluation_rewards[benchmark.name] = reward
    checked.evaluation_rows = rows


if __name__ == "__main__":
    sys.exit(main())
