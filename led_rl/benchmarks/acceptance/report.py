"""What the acceptance found: one JSON file, kept up to date, and one page."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

RESULTS, PAGE = "acceptance.json", "acceptance.txt"
SHOWN = {"ok": ("PASS", "green"), "FAIL": ("FAIL", "bold red"), "warn": ("warn", "yellow"), "skip": ("skip", "dim")}


class Report:
    """Results so far, on disk after every one.

    Args:
        folder: where acceptance.json goes.
        about: what was asked for.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        self.folder, self.about = folder, dict(about)
        self.started = time.monotonic()
        self.sections: dict[str, dict[str, Any]] = {}
        self.checks: list[dict[str, Any]] = []

    def add(self, section: str, check: Mapping[str, Any]) -> None:
        """Takes a `Check` as a mapping."""
        at = round(time.monotonic() - self.started, 1)
        self.checks.append({"section": section, **check, "at_s": at})
        self.write()

    def end(self, section: str, about: str, seconds: float) -> None:
        """Says that the section is over; its status is that of its worst check, "skip" if all were skipped."""
        self.sections[section] = {"status": self.status(section), "seconds": round(seconds, 1), "about": about}
        self.write()

    def of(self, section: str) -> list[dict[str, Any]]:
        return [check for check in self.checks if check["section"] == section]

    def status(self, section: str) -> str:
        found = {check["status"] for check in self.of(section)}
        return next(status for status in ("FAIL", "warn", "ok", "skip") if status in found)

    def failed(self) -> int:
        return sum(check["status"] == "FAIL" for check in self.checks)

    def write(self) -> None:
        """Writes the file whole or not at all."""
        content = {
            "ok": not self.failed(),
            **self.about,
            "seconds": round(time.monotonic() - self.started, 1),
            "sections": self.sections,
            "checks": self.checks,
        }
        partial = self.folder / f"{RESULTS}.part"
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.folder / RESULTS)

    def block(self, section: str) -> Table:
        """The section's part of the page."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
        for width in (4, 22):
            table.add_column(min_width=width, no_wrap=True)
        table.add_column(overflow="fold")
        entry = self.sections[section]
        table.add_row(
            _mark(entry["status"]), Text(section, "bold"), Text(f"{entry['about']} ({entry['seconds']:.0f} s)")
        )
        for check in self.of(section):
            table.add_row(_mark(check["status"]), Text(f"  {check['name']}"), Text(check["text"]))
        return table

    def summary(self) -> str:
        counts = Counter(check["status"] for check in self.checks)
        shown = ", ".join(f"{counts[status]} {SHOWN[status][0]}" for status in SHOWN if counts[status])
        return f"{shown} in {time.monotonic() - self.started:.0f} s"

    def write_page(self) -> None:
        """The page as plain text, as wide as a terminal of 120 columns."""
        with (self.folder / PAGE).open("w", encoding="utf-8") as file:
            console = Console(file=file, width=120, no_color=True)
            console.print(Text(", ".join(f"{name} {value}" for name, value in self.about.get("versions", {}).items())))
            for section in self.sections:
                console.print(self.block(section))
            console.print(self.summary())


def _mark(status: str) -> Text:
    return Text(*SHOWN[status])
