"""One interface for the ways to draw a step: compiled loops on a CPU, fused kernels on a GPU, plain torch on either."""

from typing import NamedTuple, Protocol

from torch import Tensor

from led_rl.sampler.request_slots import DecodingSlots, Needs
from led_rl.sampler.step import Draw, LatentModel


class Batch(NamedTuple):
    """The rows of one step of the engine."""

    slots: DecodingSlots
    slot_of_row: Tensor  # (rows,) slot of each row; the spare one for requests that decode as usual
    temperature: Tensor  # (rows,) with which the logits were divided, anything for greedy rows (theirs were not)
    model: LatentModel
    logits: Tensor  # (rows, vocab), after temperature and everything that edits the final layer's logits
    needs: Needs


class Asked(NamedTuple):
    """What a draw has to tell besides its tokens."""

    read_all: bool  # read the latent layers of every row: the first batch is verified
    wants_read: bool  # say what was read of latent layers
    wants_entropy: bool  # count the final layer's entropy over the vocabulary


class PartDraw(NamedTuple):
    """The draw of some rows of a batch."""

    rows: Tensor  # (n,) int64
    active: Tensor | None  # (n,) bool: which of them count; None: all
    draw: Draw


class Backend(Protocol):
    """A way to draw the rows of a batch that now decode as their request asks, and to count them in the slots' sums."""

    def takes(self, needs: Needs, logits: Tensor) -> bool:
        """Whether it knows every decoding of a batch, and the kind of its tensors."""
        ...

    def draw(self, batch: Batch, asked: Asked) -> tuple[list[PartDraw], Tensor]:
        """The draws, none if no row decodes so now (known on CPU only), and (rows, 1 + statistics) float64.

        The latter: tokens known at admission, and the sums so far of each row's slot. What is returned may be written
        over by the next step, but for the tokens.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What it keeps on the device from step to step, by name."""
        ...
