"""What another grader says of the same answers during training: logged, never rewarded."""

import logging
from collections.abc import Sequence
from typing import Any

from rewards.grader.workers.pool import WorkerPool

LOG = logging.getLogger(__name__)
SECOND_OPINIONS = ("math_verify",)  # names in rewards.grader.peers
TIME_LIMIT = 2.0  # seconds for one answer: a slower verdict counts as no opinion
SAID = {True: "right", False: "wrong", None: "no opinion"}
LISTED = 3  # disagreements of one batch in the log


class SecondOpinion:
    """Compares the verdicts of a reward with those of another grader.

    Logs the metric `<reward>/second_opinion_disagreement`, the share of the judged answers on which the two differ, and
    the column `second_opinion` of the table of completions: the other's verdict where it differs, else nothing.
    """

    def __init__(self, reward: str, name: str, workers: int) -> None:
        if name not in SECOND_OPINIONS:
            raise ValueError(f"second_opinion must be one of {', '.join(SECOND_OPINIONS)}, got {name!r}")
        self.reward, self.name, self.workers = reward, name, workers
        self._pool: WorkerPool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}  # worker processes cannot be pickled; the copy starts its own

    def start(self) -> WorkerPool:
        """Starts its worker processes. Raises PoolError when they cannot start."""
        from rewards.grader.peers import peer_pool

        self._pool = self._pool or peer_pool(self.name, self.workers, TIME_LIMIT)
        return self._pool

    def __call__(
        self,
        texts: Sequence[str | None],
        golds: Sequence[Any],
        verdicts: Sequence[bool | None],
        columns: dict[str, Any],
    ) -> list[str]:
        """The other's verdict on each row where it differs, "" elsewhere.

        Args:
            texts: after the think part; None for one that was never closed, about which there is nothing to say.
            golds: as text; None for a missing one.
            verdicts: of the reward.
            columns: TRL's, `log_extra` and `log_metric` among them.
        """
        asked = [row for row, verdict in enumerate(verdicts) if None not in (verdict, texts[row], golds[row])]
        jobs = [{"op": "grade", "text": texts[row], "gold": golds[row]} for row in asked]
        said = ["" for _ in verdicts]
        for row, result in zip(asked, self.start().run(jobs), strict=True):
            other = result.get("correct")
            if other is not verdicts[row]:
                said[row] = SAID[other]
        differing = [row for row in asked if said[row] in ("right", "wrong")]
        if log_extra := columns.get("log_extra"):
            log_extra("second_opinion", said)
        if asked and (log_metric := columns.get("log_metric")):
            log_metric(f"{self.reward}/second_opinion_disagreement", len(differing) / len(asked))
        for row in differing[:LISTED]:
            where = f"gold {golds[row]!r:.80}, answer {(texts[row] or '')[-200:]!r}"
            LOG.info("%s says %s, %s %s: %s", self.reward, SAID[verdicts[row]], self.name, said[row], where)
        return said
