"""Writes the report of a finished evaluation, and sends it to the loggers that were asked for."""

from collections.abc import Collection
from pathlib import Path

from led_rl.reporting.evaluation.folder import read_evaluation
from led_rl.reporting.evaluation.log import log_evaluation, write_tensorboard
from led_rl.reporting.evaluation.report import write_evaluation_report
from led_rl.reporting.evaluation.sample_browser import PAGE_MEGABYTES


def publish(
    folder: Path,
    output: Path,
    *,
    title: str | None = None,
    megabytes: float = PAGE_MEGABYTES,
    report_to: Collection[str] = (),
    run_name: str | None = None,
    group: str | None = None,
) -> None:
    """Writes the report into `output`, logs to wandb and tensorboard if `report_to` names them, and prints where.

    Raises:
        UserError: the folder is no evaluation, or a log cannot be written; the report is there then.
    """
    for kind, path in write_evaluation_report(read_evaluation(folder), output, title, megabytes).items():
        print(f"{kind}: {path}")
    name = run_name or folder.resolve().name
    if "wandb" in report_to:
        print("W&B:", *log_evaluation(folder, name, group or name), sep="\n  ")
    if "tensorboard" in report_to:
        print("TensorBoard:", *write_tensorboard(folder, output / "tensorboard"), sep="\n  ")
