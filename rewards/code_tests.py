"""Reward for a program that passes all tests of its problem (LiveCodeBench), each run in a sandbox."""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from rewards.answer_text.code_blocks import last_program
from rewards.answer_text.completions import after_thinking, completion_texts, prompt_opens_thinking
from rewards.calling import RewardError
from rewards.sandbox.command import KINDS, Limits, Sandbox, SandboxError, find_sandbox
from rewards.sandbox.execution import run_program
from rewards.sandbox.test_cases import WHICH, Case, TestCaseError, cases_of, passes

LOG = logging.getLogger(__name__)
COLUMNS = ("public_test_cases", "private_test_cases", "metadata")
# Imports that LeetCode and similar sites make for every program; solutions rely on them.
PRELUDE = """\
import sys, math, re, random, string, bisect, heapq, itertools, functools, collections, operator, copy, json, datetime
from typing import *
from math import *
from collections import *
from itertools import *
from functools import *
from heapq import *
from bisect import *
from operator import *
from string import *
from random import randint, shuffle, choice
sys.setrecursionlimit(50000)
from builtins import *
"""


class CodeTests:
    """1.0 for a program that passes every test, 0.0 for one that fails any or for no program, None without tests.

    The program is the last closed Python code block after the last `</think>`. Its tests stop at the first failure.

    Args:
        tests: which cases count: all, public or private.
        prefilled_think: the chat template opens `<think>`.
        time_limit: wall-clock seconds for one test.
        memory_limit_mb: for all processes of one test.
        workers: completions at a time; by default this rank's share of the CPUs.
        sandbox: auto, or one of KINDS.
        image: of a podman or docker sandbox.
    """

    def __init__(
        self,
        tests: str = "all",
        prefilled_think: bool = False,
        time_limit: float = 6.0,
        memory_limit_mb: int = 1024,
        workers: int | None = None,
        sandbox: str = "auto",
        image: str = "python:3.12-slim",
    ) -> None:
        if tests not in WHICH:
            raise ValueError(f"tests must be one of {', '.join(WHICH)}, got {tests!r}")
        if sandbox not in ("auto", *KINDS):
            raise ValueError(f"sandbox must be one of auto, {', '.join(KINDS)}, got {sandbox!r}")
        if not 0 < time_limit <= 3600:
            raise ValueError(f"time_limit must be in (0, 3600] seconds, got {time_limit!r}")
        if not isinstance(memory_limit_mb, int) or memory_limit_mb < 64:
            raise ValueError(f"memory_limit_mb must be an integer >= 64, got {memory_limit_mb!r}")
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise ValueError(f"workers must be an integer >= 1, got {workers!r}")
        self.__name__ = "code_tests"
        self.tests = tests
        self.prefilled_think = prefilled_think
        self.limits = Limits(seconds=time_limit, memory_mb=memory_limit_mb)
        share = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.workers = workers or max(1, share)
        self.sandbox = (sandbox, image)

    def start(self) -> None:
        """Finds a sandbox now. Raises RewardError, which says how to get one."""
        try:
            _sandbox(*self.sandbox)
        except SandboxError as error:
            raise RewardError(f"code_tests: {error}") from error

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        needed = [name for name in COLUMNS[:2] if self.tests in ("all", name.partition("_")[0])]
        if missing := [name for name in needed if name not in columns]:
            raise KeyError(f"code_tests needs the dataset column {missing[0]!r} with the test cases")
        rows = [
            {name: columns[name][i] for name in COLUMNS if columns.get(name) is not None}
            for i in range(len(completions))
        ]
        verdicts = self.judge(completion_texts(completions), rows, columns.get("prompts"))
        unusable = sum(verdict["correct"] is None for verdict in verdicts)
        if unusable:
            LOG.warning("code_tests: %d of %d rows have unusable tests; their rewards are None", unusable, len(rows))
        if log_extra := columns.get("log_extra"):
            log_extra("program", [verdict["extracted"] or "" for verdict in verdicts])
            log_extra("verdict", [verdict["reason"] for verdict in verdicts])
        return [None if verdict["correct"] is None else float(verdict["correct"]) for verdict in verdicts]

    def judge(
        self, texts: Sequence[str], rows: Sequence[Mapping[str, Any]], prompts: Sequence[Any] | None = None
    ) -> list[dict[str, Any]]:
        """For each text {"correct": bool or None, "extracted": the program or None, "reason": str}."""
        self.start()
        read: dict[str, list[Case] | TestCaseError] = {}  # samples of one problem share their tests
        for row in rows:
            if (key := repr(row)) not in read:
                try:
                    read[key] = cases_of(row, self.tests)
                except TestCaseError as error:
                    read[key] = error
        cases = [read[repr(row)] for row in rows]
        with ThreadPoolExecutor(self.workers) as executor:
            return list(executor.map(self._verdict, texts, cases, prompts or [None] * len(texts)))

    def _verdict(self, text: str, cases: list[Case] | TestCaseError, prompt: Any) -> dict[str, Any]:
        if isinstance(cases, TestCaseError):
            return {"correct": None, "extracted": None, "reason": f"unusable tests: {cases}"}
        final = after_thinking(text, self.prefilled_think or prompt_opens_thinking(prompt))
        program = None if final is None else last_program(final)
        if program is None:
            return {"correct": False, "extracted": None, "reason": "no program"}
        sandbox = _sandbox(*self.sandbox)
        for number, case in enumerate(cases, start=1):
            run = run_program(sandbox, program, case.given, case.function, self.limits, PRELUDE)
            output = run.output.decode("utf-8", "replace")
            if run.status != "done" or not passes(case, output):
                reason = "wrong answer" if run.status == "done" else run.status
                return {"correct": False, "extracted": program, "reason": f"test {number} of {len(cases)}: {reason}"}
        return {"correct": True, "extracted": program, "reason": f"passes {len(cases)} tests"}


@lru_cache
def _sandbox(kind: str, image: str) -> Sandbox:
    """Found once in a process."""
    return find_sandbox(kind, image)
