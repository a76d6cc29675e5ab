"""The progress bar on a terminal, in a log, and switched off."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest
from rich.progress import Progress

from led_rl.terminal.progress_bar import amount, progress_bar


def test_a_log_gets_the_lines_that_are_written_and_one_at_the_end(capsys):
    with progress_bar(4, "evaluate", "block", done=1) as bar:
        bar.advance(note="led: 12 tokens/s [1]")
        bar.write("row 3: [bad] markup")
        bar.advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "row 3: [bad] markup"
    assert re.fullmatch(r"evaluate: 4/4 blocks, \S+( s each)? led: 12 tokens/s \[1\]", lines[-1])
    assert len(lines) == 2


def test_a_log_gets_a_line_now_and_then(capsys):
    with progress_bar(3, "warm-up", "step", log_every=0) as bar:
        for _ in range(3):
            time.sleep(0.01)
            bar.advance()
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == [
        f"warm-up: {done}/3 steps" for done in (1, 2, 3, 3)
    ]


def test_a_hidden_bar_writes_nothing(capsys):
    with progress_bar(3, "warm-up", "step", shown=False, log_every=0) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_the_bar_move():
    code = (
        "from led_rl.terminal.progress_bar import progress_bar\nimport time\n"
        "with progress_bar(2_000_000, 'grading', 'B') as bar:\n"
        "    bar.write('line 7: no column')\n    bar.advance(2_000_000, note='done')\n    time.sleep(0.3)\n"
    )
    terminal, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=end, env=environment)
    os.close(end)
    written = b""
    while process.poll() is None or written.count(b"done") == 0:
        try:
            written += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait(60) == 0
    assert b"line 7: no column" in written
    assert b"2.0 MB/2.0 MB" in written


@pytest.mark.parametrize(
    ("unit", "done", "total", "expected"),
    [
        ("step", 0, 1, "0/1 step, 0.0/s"),
        ("step", 2, 5, "2/5 steps, 0.0/s"),
        ("B", 1500, 3_000_000, "1.5 kB/3.0 MB, 0 bytes/s"),
    ],
)
def test_amounts(unit, done, total, expected):
    progress = Progress()
    progress.add_task("", total=total, completed=done, before=done)
    assert amount(progress.tasks[0], unit) == expected
