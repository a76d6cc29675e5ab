"""`led-rl cost-model`: what the cost model predicts, beside what a benchmark measured or for other hardware."""

import json
from collections.abc import Sequence
from pathlib import Path

from led_rl.benchmarks.shapes import SHAPES
from led_rl.commands.arguments import Parser, share
from led_rl.decoding import UserError
from led_rl.terminal.tables import text_table

DESCRIPTION = """\
led-rl cost-model FILE: what the model predicts for a benchmark's sizes, beside what it measured.
led-rl cost-model --hardware NAME: a grid of sizes, predicted for hardware that is not at hand.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status.

    Raises:
        UserError: an option is wrong, or FILE holds no benchmark of this machine.
    """
    import torch

    from led_rl.benchmarks.cost_model import HARDWARE, grid, measure, predictions

    parser = Parser("led-rl cost-model", description=DESCRIPTION)
    add = parser.add_argument
    add("file", nargs="?", type=Path, help="benchmark.json of led-rl benchmark, from this machine")
    add("--hardware", choices=tuple(HARDWARE), help="predict a grid from the datasheet instead")
    add("--shape", choices=tuple(SHAPES), default="qwen3-4b", help="of the grid (%(default)s)")
    add("--explored", type=share, help="fraction of the rows that explore, of the grid (the shape's own)")
    options = parser.parse_args(list(arguments))
    if (options.file is None) == (options.hardware is None):
        parser.error("give a benchmark.json, or --hardware")
    if options.hardware:
        shape = SHAPES[options.shape]
        explored = shape.explored if options.explored is None else options.explored
        print(grid(shape, explored, HARDWARE[options.hardware]))
        return 0
    try:
        report = json.loads(options.file.read_text(encoding="utf-8"))
        settings, model, cells, place = (report[key] for key in ("settings", "model", "cells", "machine"))
        cuda = place["gpu"] is not None
    except OSError as error:
        raise UserError(f"{options.file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{options.file} is no benchmark.json: {error!r}") from error
    if cuda and not torch.cuda.is_available():
        raise UserError(f"{options.file} was measured on a GPU, and here is none")
    if not cuda:
        torch.set_num_threads(place["threads"])
    dtype = torch.bfloat16 if cuda else torch.float32
    machine = measure(torch.device("cuda" if cuda else "cpu"), dtype, model["vocab"], model["hidden"])
    print(machine)
    head = ["batch", "arm", "added ms/step, predicted", "measured", "ratio to standard, predicted", "measured"]
    lines = [
        [
            str(cell["batch"]),
            name,
            f"{predicted:.2f}",
            f"{measured - standard:.2f}",
            f"{standard / (standard + predicted):.3f}",
            f"{standard / measured:.3f}",
        ]
        for cell in cells
        for name, predicted, measured, standard in predictions(cell, settings, model, machine, dtype, cuda)
    ]
    print(text_table(head, lines))
    return 0
