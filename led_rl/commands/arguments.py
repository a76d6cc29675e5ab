"""The argument parser of every command, and the types of arguments that several commands take.

A wrong option raises UserError, which led_rl/cli.py turns into one line on stderr and exit status 2.
"""

import argparse
from pathlib import Path
from typing import NoReturn

from led_rl.decoding import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of ending the process; an option must be written in full."""

    def __init__(self, program: str, **options: object):
        super().__init__(program, allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def count(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """`1,8,32`: integers of at least 1, each once."""
    return tuple(dict.fromkeys(count(part) for part in text.split(",")))


def number(text: str) -> float:
    """A finite or infinite number; NaN is none."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def limit(text: str) -> int:
    """An integer of at least 1, or 0 for no limit."""
    return 0 if text == "0" else count(text)


def seed(text: str) -> int:
    """An integer from 0 to 2^63 - 1."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2^63 - 1, got {text!r}")
    return int(text)


def fraction(text: str) -> float:
    """A number above 0 and at most 1."""
    value = number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and at most 1, got {text!r}")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def temperature(text: str) -> float:
    """A number from 0 to 2, the range that vLLM takes."""
    value = number(text)
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 2, got {text!r}")
    return value


def output_folder(path: Path) -> Path:
    """Creates the folder of `--output` before anything expensive; raises UserError if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with (path / ".led-rl-writable").open("w"):
            pass
        (path / ".led-rl-writable").unlink()
    except OSError as error:
        raise UserError(f"argument --output {path}: {error.strerror or error}") from error
    return path
