"""`led-rl dashboard`: a W&B workspace with the views of LED runs."""

import re
from collections.abc import Sequence

from led_rl.commands.arguments import Parser
from led_rl.decoding import UserError
from led_rl.reporting.dashboard import NAME, save, workspace, workspace_json


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the process's exit code.

    Raises:
        UserError: no project of that form, no library, or W&B refuses.
    """
    parser = Parser("led-rl dashboard", description="Make a W&B workspace with the views of LED runs.")
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="whose runs it shows")
    parser.add_argument("--name", default=NAME, help="of the workspace (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the workspace as JSON and send nothing")
    options = parser.parse_args(argv)
    parts = re.fullmatch(r"([^/\s]+)/([^/\s]+)", options.project)
    if parts is None:
        raise UserError(f"argument ENTITY/PROJECT: expected two names with a slash between, got {options.project!r}")
    made = workspace(parts[1], parts[2], options.name)
    print(workspace_json(made) if options.dry_run else save(made))
    return 0
