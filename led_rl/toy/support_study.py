"""`make study-support`: does the loss have to know which tokens could be sampled? Measured on the quickstart's model.

Trains the quickstart's model with standard, LED and top-k rollouts, each seed with either `train_support`, evaluates
every last checkpoint under standard decoding, and writes a table and a figure. What exists is not done again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from led_rl.reporting.histories import series, smooth
from led_rl.reporting.style import draw_series, legend_on_top, new_figure, styled

STEPS, SEEDS, WINDOW = 240, (0, 1, 2), 20  # steps at either end over which the table averages
PROBLEMS, SAMPLES = 128, 16


class Arm(NamedTuple):
    """What the runs of an arm differ in."""

    name: str
    about: str
    decoding: str
    support: str
    shade: str

    @property
    def overrides(self) -> list[str]:
        return ["--decoding", self.decoding, "--train_support", self.support]


ARMS = (
    Arm("standard_vocabulary", "standard", "standard", "vocabulary", "#7a869a"),
    Arm("led_vocabulary", "LED, loss over the vocabulary", "led", "vocabulary", "#cc6677"),
    Arm("led_sampled", "LED, loss over the support", "led", "sampled", "#2f6f9f"),
    Arm("top_k_control_vocabulary", "top-k control, vocabulary", "top_k_control", "vocabulary", "#e0a83c"),
    Arm("top_k_control_sampled", "top-k control, support", "top_k_control", "sampled", "#5a9e6f"),
)
MASS, RATIO = "led/support_mass", "sampling/importance_sampling_ratio/mean"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: that of the first command that fails, else 0."""
    parser = argparse.ArgumentParser(prog="python -m led_rl.toy.support_study", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/support"), help="folder of the runs (%(default)s)")
    parser.add_argument("--base", type=Path, default=Path("runs/quickstart/base"), help="warm-up (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of a run (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="seeds of an arm")
    parser.add_argument("--problems", type=int, default=PROBLEMS, help="held-out problems (%(default)s)")
    parser.add_argument("--report-only", action="store_true", help="table and figure of what has been run so far")
    options = parser.parse_args(arguments)
    for command in [] if options.report_only else commands(options):
        print("$ " + " ".join([Path(command[0]).name, *command[1:]]), flush=True)
        if status := subprocess.run(command).returncode:
            return status
    write(options)
    return 0


def commands(options: argparse.Namespace) -> Iterable[list[str]]:
    """What is left to do, one command after the other."""
    tools = Path(sys.executable).parent
    if not options.base.is_dir():
        yield [sys.executable, "-m", "led_rl.toy.warmup", str(options.base)]
    for seed in options.seeds:
        for arm in ARMS:
            folder = run_folder(options, arm, seed)
            if (folder / "trainer_state.json").is_file():  # written last
                continue
            launch = [str(tools / "accelerate"), "launch", "--num_processes=1", "--num_machines=1"]
            launch += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "led_rl/train.py"]
            launch += ["recipes/quickstart_led.yaml", *arm.overrides, "--seed", str(seed)]
            launch += ["--model_name_or_path", str(options.base), "--dataset", str(options.base / "train.jsonl")]
            launch += ["--output_dir", str(folder), "--run_name", folder.name, "--max_steps", str(options.steps)]
            launch += ["--save_steps", str(options.steps), "--report_to", "none", "--log_completions", "false"]
            yield launch
    for seed in options.seeds:
        if summary_file(options, seed).is_file():
            continue
        models = [f"{arm.name}_seed{seed}={run_folder(options, arm, seed)}" for arm in ARMS]
        evaluate = [str(tools / "led-rl"), "evaluate", "--model", f"base={options.base}", *models]
        evaluate += ["--data", str(options.base / "test.jsonl"), "--reward", "countdown", "--decodings", "standard"]
        evaluate += ["--n", str(SAMPLES), "--temperature", "1.0", "--max-tokens", "136", "--chunk", "16"]
        evaluate += ["--limit", str(options.problems), "--output", str(summary_file(options, seed).parent)]
        yield evaluate


def run_folder(options: argparse.Namespace, arm: Arm, seed: int) -> Path:
    return options.output / f"{arm.name}_seed{seed}"


def checkpoints(options: argparse.Namespace) -> dict[str, Path]:
    return {f"{arm.name}_seed{seed}": run_folder(options, arm, seed) for arm in ARMS for seed in options.seeds}


def summary_file(options: argparse.Namespace, seed: int) -> Path:
    return options.output / f"evaluation_seed{seed}" / "summary.json"


def write(options: argparse.Namespace) -> None:
    """support.md, the table, and support.png."""
    states = {name: folder / "trainer_state.json" for name, folder in checkpoints(options).items()}
    if missing := [name for name, state in states.items() if not state.is_file()]:
        print(f"not run: {', '.join(missing)}")
    histories = {
        name: json.loads(state.read_text(encoding="utf-8"))["log_history"]
        for name, state in states.items()
        if name not in missing
    }
    passes: dict[str, Any] = {}
    for seed in options.seeds:
        rows = json.loads(summary_file(options, seed).read_text(encoding="utf-8"))
        passes |= {row["checkpoint"]: row["metrics"] for row in rows if row["compares"] is None}
    lines = [
        "| rollouts, loss | seed | mean ratio | policy entropy | support mass | rollout reward | pass@1 | pass@16 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| before training | | | | | | "
        + " | ".join(_percent(passes["base"][k]) for k in ("pass@1", "pass@16"))
        + " |",
    ]
    for arm in ARMS:
        for seed in options.seeds:
            name = f"{arm.name}_seed{seed}"
            if name not in passes:
                continue
            lines.append(f"| {arm.about} | {seed} | " + " | ".join(_cells(histories[name], passes[name])) + " |")
    (options.output / "support.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    figure(histories, passes, options.seeds).savefig(options.output / "support.png", dpi=130)
    print("\n".join(lines))
    print(f"\n{options.output / 'support.md'}, {options.output / 'support.png'}")


def _cells(history: list[dict[str, Any]], metrics: dict[str, Any]) -> list[str]:
    ends = [_ends(history, key) for key in (RATIO, entropy_of(history), MASS, "reward")]
    cells = ["" if found is None else f"{found[0]:.3f} → {found[1]:.3f}" for found in ends]
    return [*cells, *(_percent(metrics[key]) for key in ("pass@1", "pass@16"))]


def _ends(history: list[dict[str, Any]], key: str) -> tuple[float, float] | None:
    values = [entry[key] for entry in history if key in entry]
    return (float(np.mean(values[:WINDOW])), float(np.mean(values[-WINDOW:]))) if values else None


def entropy_of(history: list[dict[str, Any]]) -> str:
    """The entropy of the policy over the vocabulary: LED's rollouts log it, TRL's loss does for the others."""
    return "led/entropy_final" if "led/entropy_final" in history[0] else "entropy"


def _percent(estimate: dict[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} [{100 * estimate['low']:.0f}, {100 * estimate['high']:.0f}]"


@styled
def figure(histories: dict[str, Any], passes: dict[str, Any], seeds: Sequence[int]) -> Any:
    """Mass of the policy on the support, entropy and reward over steps; pass@1 and pass@16 after training."""
    drawn, (mass, entropy, reward, pass_1, pass_16) = new_figure(5, height=3.4)
    for arm in ARMS:
        for seed in [seed for seed in seeds if f"{arm.name}_seed{seed}" in histories]:
            history = histories[f"{arm.name}_seed{seed}"]
            label = arm.about if seed == seeds[0] else ""
            keys = MASS if MASS in history[0] else RATIO, entropy_of(history), "reward"
            for axes, key in zip((mass, entropy, reward), keys, strict=True):
                if arm.decoding == "standard" and axes is mass:
                    continue  # drawn from the whole vocabulary
                steps, values = series(history, key)
                draw_series(axes, steps, smooth(values), arm.shade, label if axes is entropy else "")
    for axes, key in ((pass_1, "pass@1"), (pass_16, "pass@16")):
        for place, arm in enumerate(ARMS):
            for seed in [seed for seed in seeds if f"{arm.name}_seed{seed}" in passes]:
                estimate = passes[f"{arm.name}_seed{seed}"][key]
                value, low, high = (100 * estimate[part] for part in ("value", "low", "high"))
                at = place + 0.22 * (seed - np.mean(seeds))
                axes.errorbar(at, value, [[value - low], [high - value]], fmt="o", color=arm.shade, markersize=4)
        axes.axhline(100 * passes["base"][key]["value"], color="#7a869a", linestyle=":", linewidth=1)
        axes.set(title=f"{key}, %", xticks=[], ylim=(0, None))
    mass.set(title="mass on the support", xlabel="training step")
    entropy.set(title="entropy, nats", xlabel="training step")
    reward.set(title="rollout reward", xlabel="training step")
    legend_on_top(drawn, entropy)
    return drawn


if __name__ == "__main__":
    sys.exit(main())
