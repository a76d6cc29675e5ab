"""A grading worker: reads one JSON job a line, writes one JSON result a line, under limits that hold by themselves.

Jobs: {"op": "grade", "text": ..., "gold": ..., "unboxed": ...} -> {"correct", "extracted", "reason"};
{"op": "gold", "gold": ...} -> {"reason"}: None for a usable gold, else what is wrong with it;
{"op": "explain", "gold": ...} -> {"reason", "kind", "shown"}: also what a usable gold was taken for.
`"library": false` leaves sympy and math-verify out.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

from rewards.grader.workers.process import MEMORY_EXIT, STARVED_FACTOR

CLOSING_MARGIN = 2.0  # seconds that a worker outlives its longest limit when nobody is left to kill it


def main(arguments: list[str]) -> int:
    memory_limit, time_limit = int(arguments[0]), float(arguments[1])
    longest = STARVED_FACTOR * time_limit + CLOSING_MARGIN
    messages = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not mix with the messages
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process wherever it hangs, even inside C code
    from rewards.grader import judge
    from rewards.grader.comparing import algebra

    def send(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message).encode() + b"\n")

    def extend(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds + longest)
        send({"extend": seconds + time_limit})

    algebra.before_import = extend
    assert judge.grade(r"\boxed{\frac{1}{2}}", "0.5").correct  # it works before it reports for duty
    send({"ready": True})
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, longest)
        try:
            result = _do(json.loads(line))
        except MemoryError:
            return MEMORY_EXIT
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(result)
    return 0


def _do(job: dict[str, Any]) -> dict[str, Any]:
    from rewards.grader import judge
    from rewards.grader.comparing import algebra

    algebra.allowed = job.get("library", True)
    if job["op"] == "gold":
        return {"reason": judge.gold_problem(job["gold"])}
    if job["op"] == "explain":
        reason = judge.gold_problem(job["gold"])
        kind, shown = ("unusable", "") if reason else judge.gold_reading(job["gold"])
        return {"reason": reason, "kind": kind, "shown": shown}
    verdict = judge.grade(job["text"], job["gold"], job.get("unboxed", "none"))
    return {"correct": verdict.correct, "extracted": verdict.extracted, "reason": verdict.reason}


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)  # no clean-up: nothing here outlives the process
