"""`make quickstart`: warm-up, GRPO with LED and with standard rollouts, evaluation, report; every stage resumes.

Each stage is the command that a user would type, run as a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from led_rl.engines.environment import set_cpu_environment

EVALUATION = "recipes/evaluate_quickstart.yaml"
TEMPERATURE = 1.0  # of the recipes


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    folder: Path
    warmup_steps: int
    train_overrides: tuple[str, ...]
    problems: int = 0  # of the evaluation, where its recipe does not say
    chunk: int = 0


FULL = Size(Path("runs/quickstart"), 1200, ())
SMOKE = Size(Path("runs/smoke"), 120, ("--max_steps", "2", "--save_steps", "2"), 8, 4)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status of the first stage that fails, 0 if all are done."""
    parser = argparse.ArgumentParser(prog="python -m led_rl.toy.quickstart", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="the same path at reduced size")
    size = SMOKE if parser.parse_args(argv).smoke else FULL
    set_cpu_environment()
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    started = time.perf_counter()
    stages = commands(size)
    for number, (title, command) in enumerate(stages.items(), start=1):
        print(f"\n[{number}/{len(stages) + 1}] {title}\n    $ {' '.join(shown(command))}", flush=True)
        status = subprocess.run(command).returncode
        if status:
            print(f"\nstage {number} failed with status {status}: {title}", file=sys.stderr)
            return status
    print(f"\n[{len(stages) + 1}/{len(stages) + 1}] report", flush=True)
    write(size)
    print(f"\ndone in {(time.perf_counter() - started) / 60:.1f} minutes; started again, it goes on from what exists")
    return 0


def commands(size: Size) -> dict[str, list[str]]:
    """What each stage runs, by its title."""
    tools = Path(sys.executable).parent
    base = str(size.folder / "base")
    train = [str(tools / "accelerate"), "launch", "--num_processes=1", "--num_machines=1", "--mixed_precision=no"]
    train += ["--dynamo_backend=no", "led_rl/train.py"]

    def overrides(name: str) -> list[str]:
        if size is FULL:
            return []
        paths = ["--model_name_or_path", base, "--dataset", f"{base}/train.jsonl", "--output_dir", trained(size, name)]
        return [*paths, *size.train_overrides]

    return {
        "warm-up: a small reasoning model from scratch, by supervised learning": [
            *(sys.executable, "-m", "led_rl.toy.warmup", base, "--steps", str(size.warmup_steps))
        ],
        "GRPO, thinking tokens sampled by LED": [*train, "recipes/quickstart_led.yaml", *overrides("led")],
        "GRPO, standard sampling": [*train, "recipes/quickstart_standard.yaml", *overrides("standard")],
        "evaluation: three checkpoints x three decodings, held-out problems": [
            *(str(tools / "led-rl"), "evaluate", EVALUATION, *evaluation_overrides(size))
        ],
    }


def evaluation_overrides(size: Size) -> list[str]:
    """What the smoke size changes in the evaluation's recipe."""
    if size is FULL:
        return []
    base = str(size.folder / "base")
    models = [f"base={base}", *(f"{name}-trained={trained(size, name)}" for name in ("standard", "led"))]
    sizes = ["--limit", str(size.problems), "--chunk", str(size.chunk), "--output", str(size.folder / "evaluation")]
    return ["--checkpoints", *models, "--benchmarks", f"countdown={base}/test.jsonl", *sizes]


def trained(size: Size, name: str) -> str:
    """Where the recipe quickstart_<name>.yaml leaves its checkpoint."""
    return f"runs/quickstart_{name}" if size is FULL else str(size.folder / f"quickstart_{name}")


def shown(command: Sequence[str]) -> list[str]:
    """The command as typed with the environment active."""
    return [Path(command[0]).name, *command[1:]]


def write(size: Size) -> None:
    """The HTML report beside its figures, and where everything lies."""
    from led_rl.evaluation.recipe import load_evaluation
    from led_rl.evaluation.records import read_records
    from led_rl.evaluation.summary import summarise
    from led_rl.reporting.content import Report
    from led_rl.reporting.findings import findings
    from led_rl.reporting.report import write_report

    records = list(read_records(size.folder / "evaluation"))
    histories = {name: json.loads(state_of(size, name).read_text())["log_history"] for name in ("standard", "led")}
    recipe = json.loads((Path(trained(size, "led")) / "recipe.json").read_text())
    warmup = json.loads((size.folder / "base" / "warmup.json").read_text())
    report_path = size.folder / "report.html"
    locations = {
        "report": str(report_path),
        "base checkpoint": str(size.folder / "base"),
        **{f"{name}-trained checkpoint": trained(size, name) for name in ("standard", "led")},
        **{f"W&B run, {name}": wandb_run(size, name) for name in ("standard", "led")},
        "evaluation records": str(size.folder / "evaluation"),
    }
    report = Report(
        title="LED-RL quickstart: countdown" + (" (smoke size)" if size is SMOKE else ""),
        rows=summarise(records),
        histories=histories,
        entropies=entropies(size, records),
        settings={
            "warm-up": warmup["settings"] | {"seconds": warmup["seconds"]},
            "GRPO (the standard run differs in `decoding`)": recipe,
            "evaluation": load_evaluation([EVALUATION, *evaluation_overrides(size)]).shown(),
        },
        locations=locations,
        rollouts_per_step=recipe["per_device_train_batch_size"],
    )
    write_report(report_path, report)
    for finding in findings(report):
        print("\n  - ".join([finding.text, *finding.details]))
    print(f"\n{report.caveat}\n")
    for what, where in locations.items():
        print(f"  {what:28}{where}")


def entropies(size: Size, records: Sequence[Any]) -> dict[str, Any]:
    """Layer entropies of each checkpoint, all read on the base model's own standard completions."""
    import torch
    from transformers import AutoModelForCausalLM

    from led_rl.evaluation.layers.entropy import layer_entropies, recorded_sequences

    sequences, masks = recorded_sequences(records, "base", "standard")
    folders = {"base": str(size.folder / "base")}
    folders |= {f"{name}-trained": trained(size, name) for name in ("standard", "led")}
    return {
        label: layer_entropies(
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), sequences, masks, TEMPERATURE
        )
        for label, folder in folders.items()
    }


def state_of(size: Size, name: str) -> Path:
    return Path(trained(size, name)) / "trainer_state.json"


def wandb_run(size: Size, name: str) -> str:
    """The newest offline run folder of a training run."""
    runs = sorted((Path(trained(size, name)) / "wandb").glob("*run-*"), key=lambda path: path.stat().st_mtime)
    return str(runs[-1]) if runs else "none (report_to was off)"


if __name__ == "__main__":
    sys.exit(main())
