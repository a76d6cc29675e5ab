"""An evaluation in W&B and TensorBoard: one run per arm, all in one group, with curves over the checkpoints."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from led_rl.decoding import UserError
from led_rl.evaluation.summary import MINUS, SummaryRow
from led_rl.reporting.evaluation.folder import EvaluationFolder, read_evaluation
from led_rl.reporting.evaluation.panels import steps_of
from led_rl.reporting.evaluation.storable_text import storable

STEP = "evaluation/step"  # of the checkpoint, or its place where names hold no step
TABLE_SAMPLES = 200  # completions in the table of a run; all are in the folder
RESULT_COLUMNS = ("benchmark", "checkpoint", "arm", "metric", "value", "low", "high", "n", "p_value")
SAMPLE_COLUMNS = ("benchmark", "checkpoint", "problem", "sample", "correct", "reward", "finished", "prompt", "text")


def log_evaluation(folder: str | Path, run_name: str, group: str, project: str | None = None) -> list[str]:
    """Logs an evaluation to W&B, online or as WANDB_MODE says: config, summary, tables, curves over checkpoints.

    Every arm is a run `<run_name> <arm>` of the group, so that a chart over `evaluation/step` shows the arms as lines.
    A difference is logged by the run of its first arm.

    Returns:
        Where each run lies: its address, or its folder when offline.

    Raises:
        UserError: W&B refuses, as without a login.
    """
    import wandb

    evaluation = read_evaluation(folder)
    mode: Any = os.environ.get("WANDB_MODE")  # W&B itself reads it once a process
    places = []
    for arm, curves in arm_curves(evaluation).items():
        with _refusals():
            run = wandb.init(
                project=project or os.environ.get("WANDB_PROJECT") or "led-rl",
                name=f"{run_name} {arm}",
                group=group,
                job_type="evaluation",
                dir=str(evaluation.path),
                mode=mode,
                config=_config(evaluation, arm),
                reinit="create_new",
            )
            run.define_metric(STEP)
            run.define_metric("evaluation/*", step_metric=STEP)
            for step, scalars in curves.items():
                run.log({STEP: step, **scalars})
            run.summary.update(list(curves.values())[-1])
            rows = [[storable(cell) for cell in row] for row in _results(evaluation, arm)]
            run.log({"evaluation/results": wandb.Table(list(RESULT_COLUMNS), rows)})
            samples = [[storable(cell) for cell in row] for row in _samples(evaluation, arm)]
            if samples:
                run.log({"evaluation/samples": wandb.Table(list(SAMPLE_COLUMNS), samples)})
            places.append(run.url or str(Path(run.dir).parent))
            run.finish()
    return places


def write_tensorboard(folder: str | Path, output: str | Path) -> list[str]:
    """The same curves as TensorBoard scalars, a folder per arm; returns the folders.

    Raises:
        UserError: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("tensorboard is not installed: pip install tensorboard") from error

    written = []
    for arm, curves in arm_curves(read_evaluation(folder)).items():
        place = Path(output) / "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in arm)
        with SummaryWriter(str(place)) as writer:
            for step, scalars in curves.items():
                for name, value in scalars.items():
                    writer.add_scalar(name, value, step)
        written.append(str(place))
    return written


def arm_curves(evaluation: EvaluationFolder) -> dict[str, dict[int, dict[str, float]]]:
    """arm -> step of a checkpoint -> `evaluation/<benchmark>/<metric>` -> value; what is not estimable is left out."""
    every = [row for rows in evaluation.rows.values() for row in rows]
    labels, steps = steps_of(dict.fromkeys(row.checkpoint for row in every if not row.is_difference))
    at = dict(zip(labels, steps or range(len(labels)), strict=True))
    curves: dict[str, dict[int, dict[str, float]]] = {}
    for benchmark, rows in evaluation.rows.items():
        for row in rows:
            if row.checkpoint in at:
                step = curves.setdefault(_first_arm(row), {}).setdefault(at[row.checkpoint], {})
                step.update(_scalars(benchmark, row))
    return {arm: dict(sorted(by_step.items())) for arm, by_step in curves.items()}


def _first_arm(row: SummaryRow) -> str:
    return row.arm.split(MINUS)[0] if row.compares == "arms" else row.arm


def _scalars(benchmark: str, row: SummaryRow) -> Iterator[tuple[str, float]]:
    place = "/".join(part for part in ("evaluation", benchmark) if part)
    against = f" minus {row.arm.split(MINUS)[1]}" if row.compares == "arms" else ""
    for name, estimate in row.metrics.items():
        ends = {"": estimate.value, " low": estimate.low, " high": estimate.high} if against else {"": estimate.value}
        for end, value in ends.items():
            if math.isfinite(value):
                yield f"{place}/{name}{against}{end}", value


def _config(evaluation: EvaluationFolder, arm: str) -> dict[str, Any]:
    """The manifest, but of the arms this one."""
    arms: Mapping[str, Any] = evaluation.manifest.get("arms", {})
    rest = {key: value for key, value in evaluation.manifest.items() if key != "arms"}
    return rest | {"arm": arm, "folder": str(evaluation.path)} | {**arms.get(arm, {})}


def _results(evaluation: EvaluationFolder, arm: str) -> Iterator[list[Any]]:
    for benchmark, rows in evaluation.rows.items():
        for row in rows:
            if _first_arm(row) == arm:
                for name, e in row.metrics.items():
                    numbers = [None if x is None or math.isnan(x) else x for x in (e.value, e.low, e.high)]
                    yield [benchmark, row.checkpoint, row.arm, name, *numbers, e.n, e.p_value]


def _samples(evaluation: EvaluationFolder, arm: str) -> Iterator[list[Any]]:
    """The first samples of each problem, as many as the table takes."""
    places = sorted((p for p in evaluation.places if p.group.arm == arm), key=lambda place: place.sample)
    places = places[:TABLE_SAMPLES]
    for place, row in zip(places, evaluation.completions(places), strict=True):
        verdict = evaluation.verdict(*place[:3])
        assert verdict is not None  # `places` holds graded completions alone
        judged = [verdict.correct, verdict.reward, verdict.finished]
        where = [place.group.benchmark, place.group.checkpoint, place.problem, place.sample]
        yield [*where, *judged, row["prompt"], row["text"]]


@contextmanager
def _refusals() -> Iterator[None]:
    """W&B's own errors as one line."""
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        raise UserError(f"W&B: {error}; log in (`wandb login`), or set WANDB_MODE=offline") from error
