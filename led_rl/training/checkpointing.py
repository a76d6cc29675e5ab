"""Three corrections of how transformers saves and loads checkpoints."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from trl import GRPOTrainer

from led_rl.training.checkpoints import numbered

# Processes without GPUs load the optimizer's state to "cpu:0" where they are several; torch.load knows "cpu" alone.
torch.serialization.register_package(
    100, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
)


class CheckpointingTrainer(GRPOTrainer):
    """GRPOTrainer whose `save_total_limit` deletes the run's own checkpoints alone, the oldest first.

    transformers sorts all of `checkpoint-*` by time: it would delete `checkpoint-best` and copies beside the others.
    """

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if not limit or not self.args.should_save:
            return
        best = self.state.best_model_checkpoint
        old = numbered(Path(self._get_output_dir(trial=trial)))[limit:]
        for checkpoint in old:
            if best is None or checkpoint.resolve() != Path(best).resolve():
                shutil.rmtree(checkpoint, ignore_errors=True)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Does not warn of a missing LM head that is tied to the embeddings: the two are saved once, as embeddings."""
        model: Any = self.model
        tied = getattr(model, "all_tied_weights_keys", None) or {}
        missing = [key for key in load_result.missing_keys if key not in tied]
        found = SimpleNamespace(missing_keys=missing, unexpected_keys=load_result.unexpected_keys)
        super()._issue_warnings_after_load(found)
