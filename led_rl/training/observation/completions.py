"""The completions of every step: a Parquet file each in the run's folder, and a table in W&B, explored tokens marked.

TRL writes a table only when it logs, of the last rollout before that, and each table in W&B hides the one before
(https://github.com/huggingface/trl/issues/2045).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate.utils import gather_object
from transformers import TrainerCallback
from trl.trainer.utils import print_prompt_completions_sample

from led_rl.sampler.support import read_record
from led_rl.terminal.token_texts import TokenTexts

FOLDER = "completions"
MARKS = ("⟦", "⟧")  # around tokens that came from latent layers rather than from the final one
HALF = 0.5
STEPS_A_TABLE = 50  # in W&B: a growing table stays in memory, and each of its rows in the history lists those before


class CompletionsTable(TrainerCallback):
    """What `log_completions` writes of a LEDGRPOTrainer, in place of TRL's. The main process writes, all gather.

    Columns are TRL's (step, prompt, completion, a column for each reward, what rewards logged, advantage) and:

    * `token_ids` of the completion;
    * `explored`: of each token the probability that it was drawn from latent layers (0 or 1 where a coin decided); null
      for tokens that were not drawn with the run's decoding, as in answers and tool results;
    * `marked`: the completion with special tokens, those explored with at least probability 1/2 between ⟦ and ⟧.

    The last two are there if the engine tells supports (`train_support: sampled`) and the decoding is not the standard.
    A step's file is written whole, when the step ends; a step that is trained again writes it again.
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self._texts: TokenTexts | None = None
        self._tokens: list[tuple[list[int], list[float | None] | None]] = []  # of the rollout that is judged now
        self._frames: list[pd.DataFrame] = []  # of the step
        self._table: Any = None  # W&B's, which grows
        self._first = 0  # its first step
        self._unseen = False  # whether the last rollout has not been printed

    def note(self, completions: Sequence[Sequence[int]], records: Sequence[Any] | None) -> None:
        """Gathers a rollout's tokens: TRL's own gathering follows, in the same order of processes."""
        if not self._wanted:
            return
        marked = None if self._trainer.decoding.is_standard else records
        explored = [None] * len(completions) if marked is None else [shares_of(tokens) for tokens in marked]
        self._tokens = gather_object(list(zip(map(list, completions), explored, strict=True)))

    def take(self) -> None:
        """Keeps the rollout that was just judged, before the next one replaces it in TRL's logs."""
        tokens, self._tokens = self._tokens, []
        if not tokens or not self._trainer.accelerator.is_main_process:
            return
        logs = self._trainer._logs
        columns: dict[str, Any] = {"prompt": logs["prompt"], "completion": logs["completion"]}
        columns |= {**logs["rewards"], **logs["extra"], "advantage": logs["advantages"]}
        frame = pd.DataFrame({name: list(values)[-len(tokens) :] for name, values in columns.items()})
        frame.insert(0, "step", self._trainer.state.global_step + 1)
        frame["token_ids"] = [ids for ids, _ in tokens]
        if tokens[0][1] is not None:
            self._texts = self._texts or TokenTexts(self._trainer._tokenizer)
            frame["explored"] = [shares for _, shares in tokens]
            frame["marked"] = [mark(self._texts.pieces(ids), shares or ()) for ids, shares in tokens]
        self._frames.append(frame)
        self._unseen = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._frames:
            return
        frame, self._frames = pd.concat(self._frames, ignore_index=True), []
        folder = Path(args.output_dir, FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"completions_{state.global_step:05d}.parquet"  # as TRL names it
        half = path.with_suffix(".part")
        frame.to_parquet(half)
        os.replace(half, path)
        self._publish(frame, state.global_step)

    @contextmanager
    def instead_of_trl(self) -> Iterator[None]:
        """While open, TRL's `log` leaves completions alone; then the last rollout is printed, once, as TRL does."""
        trainer, wanted = self._trainer, self._trainer.log_completions
        trainer.log_completions = wanted and not self._wanted
        try:
            yield
        finally:
            trainer.log_completions = wanted
        if self._wanted and self._unseen:  # the summary at the end of training is a log, too
            self._unseen = False
            logs = trainer._logs
            print_prompt_completions_sample(
                logs["prompt"],
                logs["completion"],
                logs["rewards"],
                logs["advantages"],
                trainer.state.global_step,
                trainer.num_completions_to_print,
                extra=dict(logs["extra"]),
            )

    @property
    def _wanted(self) -> bool:
        """Completions with images are TRL's to show."""
        trainer = self._trainer
        return bool(trainer.log_completions and trainer.model.training and not trainer._logs["images"])

    def _publish(self, frame: pd.DataFrame, step: int) -> None:
        wanted = self._trainer.args.report_to or []
        if self._trainer.args.log_unique_prompts:
            frame = frame[~frame["prompt"].astype(str).duplicated()]
        if "trackio" in wanted:
            import trackio

            trackio.log({"completions": trackio.Table(dataframe=frame)})
        if "wandb" not in wanted:
            return
        import wandb

        if wandb.run is None:
            return
        shown = frame.drop(columns=["token_ids", "explored"], errors="ignore").astype(
            {"prompt": str, "completion": str}
        )
        full = step >= self._first + STEPS_A_TABLE
        if self._table is None or full or list(self._table.columns) != list(shown.columns):
            self._table, self._first = wandb.Table(columns=list(shown.columns), log_mode="INCREMENTAL"), step
        for row in shown.itertuples(index=False):
            self._table.add_data(*row)
        wandb.log({f"completions/from_step_{self._first:05d}": self._table, "train/global_step": step})


def shares_of(records: Sequence[Sequence[int]]) -> list[float | None]:
    """Of each token its probability of exploring, from its record (led_rl/sampler/support.py)."""
    shares = (read_record(record)[1] for record in records)
    return [None if share < 0 else share for share in shares]


def mark(pieces: Sequence[str], shares: Sequence[float | None]) -> str:
    """The text of a completion with MARKS around its explored tokens."""
    text, inside = [], False
    for piece, share in zip(pieces, shares, strict=True):
        explored = share is not None and share >= HALF
        if explored != inside:
            text.append(MARKS[0] if explored else MARKS[1])
        text.append(piece)
        inside = explored
    return "".join(text) + (MARKS[1] if inside else "")
