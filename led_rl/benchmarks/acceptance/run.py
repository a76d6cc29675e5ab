"""Runs the sections of the acceptance, each in a worker process with a time limit.

This module does not import torch, so that a broken installation is reported as a failed section instead of ending the
command. A section that crashes or hangs has failed, and the others go on.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from led_rl.benchmarks.acceptance.report import PAGE, RESULTS, Report
from led_rl.benchmarks.acceptance.sections import PACKAGE, Section
from led_rl.engines.environment import has_gpu
from led_rl.engines.self_check import Check

POLL = 0.1  # seconds


class Job:
    """A section's process, its log, and the lines of results that it writes."""

    def __init__(self, section: Section, work: Path, logs: Path, seconds: float):
        self.section, self.seconds = section, seconds
        self.log, self.results = logs / f"{section.name}.log", work / f"{section.name}.jsonl"
        self.results.touch()
        self.read = 0  # lines
        self.started = time.monotonic()
        # sections that run alone never overlap, so they can share compiled kernels
        caches = {name: str(work / ("alone" if section.alone else section.name) / name.lower()) for name in CACHES}
        environment = os.environ | section.environment() | caches | {"TMPDIR": str(work)}
        settings = json.dumps({**section.settings, "seconds": seconds})
        command = [sys.executable, "-m", f"{PACKAGE}.worker", section.function, str(self.results), settings]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def took(self) -> float:
        return time.monotonic() - self.started

    def lines(self) -> list[dict[str, Any]]:
        """Whole lines written since the last look."""
        written = self.results.read_text(encoding="utf-8").split("\n")[:-1]
        new, self.read = written[self.read :], len(written)
        return [json.loads(line) for line in new]

    def last_line(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")[:300]

    def end(self) -> None:
        """Ends the process and all that it began, some of which may have sessions of their own."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


# Where vLLM, Triton and torch keep what they compile: not where other runs left theirs, and not shared by sections that
# run side by side.
CACHES = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


def accept(sections: Sequence[Section], output: Path, seconds: float, parallel: int, console: Console) -> Report:
    """Runs the sections as far as the seconds go, prints each as it ends, and keeps acceptance.json up to date."""
    asked = {"asked": [section.name for section in sections], "time_limit_s": seconds, "gpu": has_gpu()}
    report = Report(output, asked)
    logs = output / "logs"
    logs.mkdir(exist_ok=True)
    running: list[Job] = []
    waiting = list(sections)
    temporary = tempfile.TemporaryDirectory(prefix="led-rl-acceptance-", ignore_cleanup_errors=True)
    with temporary as work, console.status("") as status:
        try:
            while waiting or running:
                for job in list(running):
                    if _follow(job, report):
                        running.remove(job)
                        console.print(report.block(job.section.name))
                while waiting and _may_start(waiting[0], running, parallel):
                    section = waiting.pop(0)
                    left = seconds - (time.monotonic() - report.started)
                    if reason := section.missing() or (f"{left:.0f} s are left" if left < section.least else None):
                        report.add(section.name, asdict(Check("skipped", "skip", reason)))
                        report.end(section.name, section.about, 0.0)
                        console.print(report.block(section.name))
                    else:
                        running.append(Job(section, Path(work), logs, min(section.seconds, left)))
                status.update(f"running: {', '.join(f'{job.section.name} {job.took():.0f} s' for job in running)}")
                time.sleep(POLL)
        finally:
            for job in running:
                job.end()
    report.write()
    report.write_page()
    console.print(f"{report.summary()}: {output / RESULTS}, {output / PAGE}", highlight=False)
    return report


def _may_start(section: Section, running: Sequence[Job], parallel: int) -> bool:
    if any(job.section.alone for job in running):
        return False
    return len(running) < (1 if section.alone else parallel)


def _follow(job: Job, report: Report) -> bool:
    """Takes what the section has found; whether it is over, by itself or because its time is."""
    status = job.process.poll()
    late = status is None and job.took() > job.seconds
    if late or status is not None:
        job.end()
    name = job.section.name
    for line in job.lines():
        if "machine" in line:
            for key in ("machine", "versions"):
                report.about.setdefault(key, line[key])
        else:
            report.add(name, line)
    if not late and status is None:
        return False
    text = None
    if late:
        text = f"stopped after {job.took():.0f} s"
    elif status:
        text = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    elif not report.of(name):
        text = "gave no result"
    if text:
        text += f"; its log ends: {job.last_line()}"
        report.add(name, asdict(Check("worker", "FAIL", text)))
    report.end(name, job.section.about, job.took())
    return True
