"""`led-rl report`: an evaluation's folder as one HTML page, as Markdown and as CSV."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from led_rl.commands.arguments import Parser, number, output_folder
from led_rl.decoding import UserError
from led_rl.reporting.evaluation.sample_browser import PAGE_MEGABYTES


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the process's exit code.

    Raises:
        UserError: names the folder or the file at fault.
    """
    parser = Parser("led-rl report", description="Write report.html, report.md and report.csv for an evaluation.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what `led-rl evaluate` wrote")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (the evaluation's own folder)")
    parser.add_argument("--title", help="of the page (the folder's name)")
    parser.add_argument(
        "--megabytes",
        type=number,
        default=PAGE_MEGABYTES,
        help="most that completions may take in the page (%(default)g); the first samples of each problem stay",
    )
    parser.add_argument(
        "--report-to",
        action="append",
        default=[],
        choices=("wandb", "tensorboard"),
        help="log it there; repeatable",
    )
    parser.add_argument("--run-name", help="of the W&B runs, before the arm's name (the folder's name)")
    parser.add_argument("--group", help="of the W&B runs (the run name)")
    options = parser.parse_args(argv)

    try:
        _report(options)
    except OSError as error:
        raise UserError(str(error)) from error
    return 0


def _report(options: argparse.Namespace) -> None:
    from led_rl.reporting.console import console_table
    from led_rl.reporting.evaluation.folder import read_evaluation
    from led_rl.reporting.evaluation.publish import publish

    evaluation = read_evaluation(options.folder)
    output = output_folder(options.output or options.folder)
    for benchmark, rows in evaluation.rows.items():
        print("\n".join(part for part in (benchmark, console_table(rows), "") if part or not benchmark))
    publish(
        options.folder,
        output,
        title=options.title,
        megabytes=options.megabytes,
        report_to=options.report_to,
        run_name=options.run_name,
        group=options.group,
    )
