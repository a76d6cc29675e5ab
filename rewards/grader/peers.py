"""Other graders, each as a program that answers the jobs of a WorkerPool: for comparison, never for rewards.

`python -m rewards.grader.peers NAME` reads {"text", "gold"} a line and writes {"correct"}; None for a gold that the
grader cannot read. Each is called as its harness calls it; none of these harnesses need be installed.
"""

import functools
import json
import os
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rewards.answer_text.boxes import final_answer
from rewards.grader import harnesses
from rewards.grader.workers.pool import WorkerPool

Verdict = Callable[[str, str], bool | None]
MEMORY_LIMIT = 4 << 30  # bytes of address space of one worker
TIME_LIMIT = 15.0  # seconds: above math-verify's own time-outs of 10 s for parsing and 5 s for comparing


def as_trl(text: str, gold: str) -> bool | None:
    """math-verify as `trl.rewards.accuracy_reward` calls it (TRL 1.16): the gold is parsed as it stands."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    extraction = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True), boxed_match_priority=0, try_extract_without_anchor=False
    )
    wanted = parse(gold, parsing_timeout=10)
    if not wanted:
        return None
    answer = parse(text, extraction_config=[extraction], extraction_mode="first_match", parsing_timeout=10)
    return bool(verify(wanted, answer, timeout_seconds=5))


def with_written_gold(text: str, gold: str) -> bool | None:
    """The same with the gold as a formula (`$...$`), as math-verify asks for it; the second opinion is this call."""
    return as_trl(text, gold if "$" in gold or "\\boxed" in gold else f"${gold}$")


def as_lighteval(text: str, gold: str) -> bool | None:
    """math-verify with what lighteval's `math_500` asks for (`pass_at_k_math`, huggingface/lighteval 3fd1526,
    metrics/metrics.py): numbers before LaTeX, any match, boxes after other anchors, six decimals.

    lighteval keeps the extraction that math-verify grew out of; its golds are the solutions of MATH, which box the
    answer, so the gold is boxed here.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = [ExprExtractionConfig(), LatexExtractionConfig(boxed_match_priority=55)]
    read = functools.partial(
        parse, extraction_config=targets, fallback_mode="first_match", extraction_mode="any_match", parsing_timeout=5
    )
    wanted = read(f"ANSWER: $\\boxed{{{gold}}}$")
    return bool(verify(wanted, read(text), float_rounding=6, timeout_seconds=5)) if wanted else None


def by_sympy(text: str, gold: str) -> bool | None:
    """sympy alone: the last box, read by its lark grammar of LaTeX; equal if the difference simplifies to 0."""
    wanted = harnesses.latex_value(gold)
    if wanted is None:
        return None
    answer, _ = final_answer(text)
    return harnesses.same_value(wanted, harnesses.latex_value(answer or ""))


PEERS: dict[str, tuple[str, Verdict]] = {
    "trl": ("math-verify, as TRL", as_trl),
    "math_verify": ("math-verify, gold as formula", with_written_gold),
    "lighteval": ("math-verify, as lighteval", as_lighteval),
    "sympy": ("sympy alone", by_sympy),
}


def peer_pool(name: str, workers: int = 1, time_limit: float = TIME_LIMIT) -> WorkerPool:
    """Workers that grade by the peer called `name`. Raises PoolError when they cannot be started."""
    return WorkerPool(workers, time_limit, command=[sys.executable, "-m", "rewards.grader.peers", name])


def main(arguments: Sequence[str]) -> int:
    verdict = PEERS[arguments[0]][1]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    messages = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not mix with the messages

    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=messages, flush=True)

    verdict(r"\boxed{\frac{1}{2}}", r"\frac{1}{2}")  # imports its library
    send({"ready": True})
    os.dup2(1, 2)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            send({"correct": verdict(job["text"], job["gold"])})
        except Exception:  # whatever a library raises: its harness would count a wrong answer, or fail
            send({"correct": False})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
