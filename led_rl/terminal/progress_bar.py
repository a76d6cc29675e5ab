"""Progress of long commands on stderr, by rich: a bar with speed and time left; in a log, a line now and then."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

LOG_EVERY = 30.0  # seconds between lines where stderr is no terminal


class ProgressBar:
    """The progress of one command: a bar on a terminal, lines in a log; made by `progress_bar`."""

    def __init__(self, progress: Progress, task: TaskID, unit: str, log_every: float) -> None:
        self._progress, self._task, self._unit, self._log_every = progress, task, unit, log_every
        self._logged = time.monotonic()
        self._told = ""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """`steps` more are done; `note` replaces what stands at the end of the bar."""
        self._progress.advance(self._task, steps)
        if note is not None:
            self.note(note)
        if not self._progress.console.is_terminal and time.monotonic() - self._logged >= self._log_every:
            self._log()

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)

    def write(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _log(self) -> None:
        self._logged = time.monotonic()
        task = self._progress.tasks[0]
        speed = speed_of(task)
        left = f", {task.remaining / speed:.0f} s left" if task.remaining and speed else ""
        line = f"{task.description}: {amount(task, self._unit)}{left} {task.fields['note']}".rstrip()
        if line != self._told:
            self.write(line)
        self._told = line


@contextmanager
def progress_bar(
    total: int, description: str, unit: str, done: int = 0, shown: bool = True, log_every: float = LOG_EVERY
) -> Iterator[ProgressBar]:
    """A bar while the block runs.

    Args:
        total: steps in all; bytes if `unit` is "B".
        unit: of a step, in the singular.
        done: steps that an earlier run did.
        log_every: seconds between lines where stderr is no terminal; a terminal gets a moving bar instead.
    """
    console = Console(file=sys.stderr)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Amount(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        transient=False,
        disable=not shown or not console.is_terminal,
    )
    with progress:
        task = progress.add_task(description, total=total, completed=done, note="", before=done)
        bar = ProgressBar(progress, task, unit, log_every if shown else float("inf"))
        yield bar
        if shown and not console.is_terminal:
            bar._log()


class _Amount(TextColumn):
    """How much is done, and the speed."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(amount(task, self._unit))


def speed_of(task: Task) -> float:
    """Steps a second since the bar began; 0 where nothing is done."""
    return (task.completed - task.fields["before"]) / task.elapsed if task.elapsed else 0.0


def amount(task: Task, unit: str) -> str:
    """`12/40 steps, 1.5/s`, or `3.1 MB/20.0 MB, 1.2 MB/s` for bytes."""
    done, total, speed = int(task.completed), int(task.total or 0), speed_of(task)
    if unit == "B":
        return f"{decimal(done)}/{decimal(total)}, {decimal(int(speed))}/s"
    pace = f"{speed:.1f}/s" if speed >= 1 or not speed else f"{1 / speed:.1f} s each"
    return f"{done}/{total} {unit}{'' if total == 1 else 's'}, {pace}"
