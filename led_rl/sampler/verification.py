"""The check of an engine's first latent tables: a broken engine must stop, not sample something else."""

from collections.abc import Sequence

from torch import Tensor

from led_rl.sampler.backend import PartDraw
from led_rl.sampler.step import Read


class FirstBatchCheck:
    """Looks at the first tables that say something; `done` afterwards. Synchronises once with the device."""

    def __init__(self, captures: bool):
        self.done = not captures

    def look(self, draws: Sequence[PartDraw]) -> None:
        """Raises RuntimeError if the latent layers cannot have reached the sampler."""
        for part in draws:
            if not self.done and part.draw.read is not None:
                self._look(part.draw.read, part.active)

    def _look(self, read: Read, active: Tensor | None) -> None:
        table = read.table
        for counts in (active, read.mask):
            if counts is not None:
                table = table.where(counts[:, None, None], 0.0)  # says nothing
        # Rows that say nothing, such as those of a token whose embedding is zero, rightly agree in every layer.
        informed = table[:, 0].amax(-1) > table[:, 0].amin(-1) + 1e-6
        if not bool(informed.any()):
            return
        problem = None
        if not bool(table.isfinite().all()) or bool(((table < 0) | (table > 1 + 1e-3)).any()):
            problem = "the latent layers' posteriors are not probabilities"
        elif table.shape[1] > 1 and bool((table[informed, 1:] == table[informed, :1]).all()):
            problem = "every latent layer equals the final one"
        if problem:
            raise RuntimeError(
                f"LED's first batch failed its check: {problem}. The latent states did not reach the sampler. "
                "Stopping, rather than sample something else in silence; `led-rl doctor MODEL` reports more."
            )
        self.done = True
