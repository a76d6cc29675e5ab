"""What runs inside the sandbox: takes its limits, then becomes the program. Started by its text (`python -c`).

Expected outputs never come in here, so a program that takes this process over can only print what it could have
computed. Standard input: 8 digits, that many bytes of JSON {prelude, program, function, limits}, then the program's
own input.
"""

import builtins
import json
import os
import resource
import sys
from typing import Any


def read(count: int) -> bytes:
    """Exactly `count` bytes of standard input, none of those behind them."""
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def limit(which: int, value: int) -> None:
    resource.setrlimit(which, (value, value))


def main() -> None:
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # which `python -S` leaves out
    order = json.loads(read(int(read(8))))
    limits = order["limits"]
    limit(resource.RLIMIT_AS, limits["memory"])
    limit(resource.RLIMIT_CPU, limits["cpu_seconds"])
    limit(resource.RLIMIT_NPROC, limits["processes"])
    limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_CORE, 0)
    scope: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    exec(compile(order["prelude"], "prelude.py", "exec"), scope)
    if order["function"] is None:
        exec(compile(order["program"], "program.py", "exec"), scope)
        return
    answers = os.dup(1)  # what the program prints must not mix with what its function returns
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    arguments = [json.loads(line) for line in sys.stdin.read().split("\n") if line.strip()]
    scope["__name__"] = "program"
    exec(compile(order["program"], "program.py", "exec"), scope)
    name = order["function"]
    function = scope[name] if name in scope else getattr(scope["Solution"](), name)
    data = json.dumps(function(*arguments)).encode()
    while data:
        data = data[os.write(answers, data) :]


main()
