"""Reward for a mathematically right final answer."""

import logging
from typing import Any

from rewards.answer_text.completions import after_thinking, completion_texts, prompt_opens_thinking
from rewards.golds import gold_text, no_gold
from rewards.grader.workers.pool import WorkerPool, default_workers, shared_pool
from rewards.second_opinion import SecondOpinion
from rewards.think_watch import ThinkWatch

LOG = logging.getLogger(__name__)
UNBOXED = ("none", "statement", "formula", "bare")
LONGEST_ANSWER_TEXT = 50_000  # characters after the think part that are read: its end, where the final answer stands


class MathAnswer:
    """1.0 for a right answer, 0.0 for a wrong or missing one, None when the gold is unusable.

    Only the text after the last `</think>` counts, and in it the last box; docs/rewards.md has the rules in full.

    Args:
        gold_column: dataset column of the gold answers.
        unboxed: what may stand in for a missing box: `none`; `bare` (the whole text is nothing but an answer);
            `statement` (also a final "the answer is ..."); `formula` (also the last formula).
        prefilled_think: the chat template opens `<think>`, so a text without `</think>` has not finished thinking.
            Plain prompts that end in an open `<think>` are recognised without it.
        workers: worker processes of this rank; by default its share of the CPUs, at most 8.
        time_limit: wall-clock seconds for one answer.
        memory_limit_mb: memory cap of one worker.
        second_opinion: `math_verify` logs where that library's verdict differs (rewards.second_opinion); the rewards
            stay the same.
    """

    def __init__(
        self,
        gold_column: str = "answer",
        unboxed: str = "none",
        prefilled_think: bool = False,
        workers: int | None = None,
        time_limit: float = 0.8,
        memory_limit_mb: int = 1024,
        second_opinion: str | None = None,
    ) -> None:
        if unboxed not in UNBOXED:
            raise ValueError(f"unboxed must be one of {', '.join(UNBOXED)}, got {unboxed!r}")
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise ValueError(f"workers must be an integer >= 1, got {workers!r}")
        if not 0 < time_limit <= 3600:
            raise ValueError(f"time_limit must be in (0, 3600] seconds, got {time_limit!r}")
        if not isinstance(memory_limit_mb, int) or memory_limit_mb < 256:
            raise ValueError(f"memory_limit_mb must be an integer >= 256, got {memory_limit_mb!r}")
        self.__name__ = "math_answer"
        self.gold_column = gold_column
        self.unboxed = unboxed
        self.prefilled_think = prefilled_think
        self.workers = workers
        self.time_limit = time_limit
        self.memory_limit = memory_limit_mb << 20
        self._watch = ThinkWatch("math_answer")
        self._second = second_opinion and SecondOpinion("math_answer", second_opinion, workers or default_workers())

    def start(self) -> None:
        """Start the worker processes of this rank now. Raises PoolError when they cannot start."""
        self.pool()
        if self._second:
            self._second.start()

    def pool(self) -> WorkerPool:
        return shared_pool(self.workers, self.time_limit, self.memory_limit)

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        if self.gold_column not in columns:
            raise KeyError(f"math_answer needs the dataset column {self.gold_column!r} with the gold answers")
        prompts = columns.get("prompts") or [None] * len(completions)
        texts = completion_texts(completions)
        self._watch(texts, self.prefilled_think, columns)
        verdicts = self.judge(texts, columns[self.gold_column], prompts)
        self._log(verdicts, columns)
        if self._second:
            finals = [after_thinking(text, self._opened(prompt)) for text, prompt in zip(texts, prompts, strict=True)]
            golds = [gold_text(gold) for gold in columns[self.gold_column]]
            tails = [final and final[-LONGEST_ANSWER_TEXT:] for final in finals]
            self._second(tails, golds, [verdict["correct"] for verdict in verdicts], columns)
        return [None if verdict["correct"] is None else float(verdict["correct"]) for verdict in verdicts]

    def judge(self, texts: list[str], golds: list[Any], prompts: list[Any] | None = None) -> list[dict[str, Any]]:
        """For each completion text {"correct": bool or None, "extracted": str or None, "reason": str}."""
        verdicts: list[dict[str, Any]] = [{} for _ in texts]
        jobs = {}
        for row, (text, gold, prompt) in enumerate(zip(texts, golds, prompts or [None] * len(texts), strict=True)):
            written = gold_text(gold)
            final = after_thinking(text, self._opened(prompt))
            if written is None:
                verdicts[row] = {"correct": None, "extracted": None, "reason": f"unusable gold: {no_gold(gold)}"}
            else:
                # An unclosed think part still goes to a worker, as no text at all: an unusable gold must show as None.
                jobs[row] = {
                    "op": "grade",
                    "text": None if final is None else final[-LONGEST_ANSWER_TEXT:],
                    "gold": written,
                    "unboxed": self.unboxed,
                }
        pool = self.pool()
        for row, result in zip(jobs, pool.run(list(jobs.values())), strict=True):
            verdicts[row] = result
        failed = [row for row in jobs if "failure" in verdicts[row]]
        if failed:  # whose fault: a gold that cannot be read by itself makes the row unusable
            checks = pool.run([{"op": "gold", "gold": jobs[row]["gold"]} for row in failed])
            for row, check in zip(failed, checks, strict=True):
                usable = "failure" not in check and check["reason"] is None
                reason = verdicts[row]["failure"] if usable else "unusable gold: cannot be checked"
                verdicts[row] = {"correct": False if usable else None, "extracted": None, "reason": reason}
        return verdicts

    def _opened(self, prompt: Any) -> bool:
        return self.prefilled_think or prompt_opens_thinking(prompt)

    def _log(self, verdicts: list[dict[str, Any]], columns: dict[str, Any]) -> None:
        lost = sum(verdict["reason"] in ("time limit", "memory limit", "crash") for verdict in verdicts)
        unusable = sum(verdict["correct"] is None for verdict in verdicts)
        if unusable:
            LOG.warning("math_answer: %d of %d golds are unusable; their rewards are None", unusable, len(verdicts))
        if log_extra := columns.get("log_extra"):
            log_extra("gold", [str(gold) for gold in columns[self.gold_column]])
            log_extra("extracted", [verdict["extracted"] or "" for verdict in verdicts])
            log_extra("verdict", [verdict["reason"] for verdict in verdicts])
        if log_metric := columns.get("log_metric"):
            log_metric("math_answer/lost_to_limits", float(lost))
            log_metric("math_answer/unusable_golds", float(unusable))
