"""`led-rl export`: an evaluation's completions in formats of other tools."""

from collections.abc import Sequence
from pathlib import Path

from led_rl.commands.arguments import Parser
from led_rl.decoding import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the process's exit code.

    Raises:
        UserError: names the folder at fault, or the library that is missing.
    """
    parser = Parser("led-rl export", description="Write an evaluation's completions in the format of another tool.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what `led-rl evaluate` wrote")
    parser.add_argument(
        "--to", required=True, choices=("inspect", "parquet"), help="logs of Inspect, or one Parquet file"
    )
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder of the logs, or the Parquet file")
    options = parser.parse_args(argv)

    from led_rl.reporting.evaluation.folder import read_evaluation
    from led_rl.reporting.evaluation.inspect_log import write_inspect_logs
    from led_rl.reporting.evaluation.parquet import write_parquet

    try:
        folder = read_evaluation(options.folder)
    except OSError as error:
        raise UserError(str(error)) from error
    try:
        if options.to == "parquet":
            if options.output.is_dir():
                raise UserError(f"{options.output} is a folder; name the Parquet file to write")
            written = [write_parquet(folder, options.output)]
        else:
            written = write_inspect_logs(folder, options.output)
    except OSError as error:
        raise UserError(f"{options.output} cannot be written: {error.strerror or error}") from error
    for path in written:
        print(path)
    return 0
