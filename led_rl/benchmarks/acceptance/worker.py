"""One section in a process of its own: `python -m led_rl.benchmarks.acceptance.worker FUNCTION RESULTS SETTINGS`.

Writes a line of JSON to the file RESULTS as soon as a check is done. SETTINGS: keywords of the function as JSON; among
them `seconds`, that it may take.
"""

import importlib
import json
import os
import sys
from dataclasses import asdict
from typing import Any

from led_rl.benchmarks.acceptance.sections import PACKAGE
from led_rl.engines.environment import has_gpu, set_cpu_environment


def main(function: str, results: str, settings: str) -> None:
    """Runs the section; what it raises ends the process with a traceback."""
    if not has_gpu():
        set_cpu_environment()  # before torch and vLLM are imported
    module, name = function.split(":")
    with open(results, "a", encoding="utf-8") as file:

        def write(content: dict[str, Any]) -> None:
            file.write(json.dumps(content, default=str) + "\n")
            file.flush()

        run = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
        from led_rl.benchmarks.machine import machine, versions

        write({"machine": machine(), "versions": versions()})
        for check in run(**json.loads(settings)):
            write(asdict(check))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # taking engines apart takes seconds, and proves nothing
