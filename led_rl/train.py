"""`accelerate launch led_rl/train.py RECIPE.yaml [--key value ...]`: check, build, resume, train, save."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from led_rl.training.checks import Checked
    from led_rl.training.config import Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 with one clear line on stderr when the recipe cannot be run."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    from led_rl.engines.environment import prepare_training

    prepare_training()
    from led_rl.decoding import UserError
    from led_rl.training.build import build_trainer
    from led_rl.training.checks import check_recipe
    from led_rl.training.recipe import help_text, load_recipe
    from led_rl.training.run_folder import RECORD, is_finished, last_checkpoint, set_aside
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
        add_benchmarks(recipe, checked)
        trainer = build_trainer(recipe, checked)
    except (UserError, RewardError) as error:
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


def add_benchmarks(recipe: "Recipe", checked: "Checked") -> None:
    """Adds the rows and rewards of `eval_benchmarks`; raises UserError or RewardError that names what is wrong."""
    from datasets import Dataset

    from led_rl.evaluation.benchmarks import find_benchmark, read_problems
    from led_rl.training.reward_loading import load_reward_for

    if not recipe.run.eval_benchmarks:
        return
    rows = {} if checked.evaluation_rows is None else {"eval_dataset": checked.evaluation_rows}
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
