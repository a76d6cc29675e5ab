"""One section in a process of its own: `python -m led_rl.benchmarks.acceptance.worker SECTION RESULTS SECONDS`.

Writes a line of JSON to the file RESULTS as soon as a check is done. SECONDS: that it may take; sections that measure
for as long as they may use them.
"""

import importlib
import json
import os
import sys
from dataclasses import asdict
from typing import Any

from led_rl.benchmarks.acceptance.sections import PACKAGE, SECTIONS
from led_rl.engines.environment import has_gpu, set_cpu_environment


def main(name: str, results: str, seconds: str) -> None:
    """Runs the section; what it raises ends the process with a traceback."""
    if not has_gpu():
        set_cpu_environment()  # before torch and vLLM are imported
    section = SECTIONS[name]
    module, function = section.function.split(":")
    with open(results, "a", encoding="utf-8") as file:

        def write(content: dict[str, Any]) -> None:
            file.write(json.dumps(content, default=str) + "\n")
            file.flush()

        run = getattr(importlib.import_module(f"{PACKAGE}.{module}"), function)
        from led_rl.benchmarks.machine import machine, versions

        write({"machine": machine(), "versions": versions()})
        for check in run(seconds=float(seconds), **section.settings):
            write(asdict(check))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # taking engines apart takes seconds, and proves nothing
