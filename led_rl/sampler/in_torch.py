"""A step's draw in plain torch: every decoding, on every device."""

import torch
from torch import Tensor

from led_rl.methods.properties import DECODINGS
from led_rl.sampler.backend import Asked, Batch, PartDraw
from led_rl.sampler.columns import COLD_STOPS, DECODING, STATISTICS
from led_rl.sampler.decodings import DRAWS
from led_rl.sampler.request_slots import Needs
from led_rl.sampler.step import Draw, Step
from led_rl.sampler.uniforms import uniforms


class TorchDraw:
    """Draws with torch's operators: the backend for what the others do not know."""

    def takes(self, needs: Needs, logits: Tensor) -> bool:
        return True

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def draw(self, batch: Batch, asked: Asked) -> tuple[list[PartDraw], Tensor]:
        working = batch.slots.at(batch.slot_of_row, batch.temperature)
        kept, needs = batch.model.led_states, batch.needs
        positions = kept.positions[: len(batch.slot_of_row)]
        active = working.follow(kept.tokens[: len(positions)], positions)
        uniform = uniforms(working.keys, positions)
        draws: list[PartDraw] = []
        carried = batch.slots.carried
        for kind in needs.decodings:
            mask = active if len(needs.decodings) == 1 else active & (working.settings[:, DECODING] == kind)
            rows = mask.nonzero().squeeze(1) if mask.device.type == "cpu" else working.rows
            if not len(rows):
                continue
            step = Step(
                batch.logits,
                rows,
                working.settings,
                working.temperature,
                uniform,
                needs,
                batch.model,
                asked.read_all,
                asked.wants_entropy,
            )
            if len(rows) < len(positions):
                step.logits, step.settings = batch.logits[rows], step.settings[rows]
                step.temperature, step.uniform = step.temperature[rows], uniform[rows]
            step.logits = step.logits.float()
            if carried is not None:
                slots, at = batch.slot_of_row[rows], positions[rows]
                step.carried = carried.rows(slots, at)
            draw = DRAWS[DECODINGS[kind]](step)
            counts = None if mask.device.type == "cpu" else mask
            count(step, draw, working.sums, counts)
            if draw.next_input is not None:
                assert carried is not None
                carried.put(slots, at + 1, draw.next_input, counts)
            draws.append(PartDraw(rows, counts, draw))
        return draws, torch.cat([working.known_column, working.sums], dim=1)


def count(step: Step, draw: Draw, sums: Tensor, mask: Tensor | None) -> None:
    """Adds a draw to the batch's sums (rows, statistics); `mask`: (n,) rows of the draw that count, None for all."""
    ones = torch.ones_like(draw.confidence)
    assert step.undrawable is not None
    entropy = torch.special.entr(draw.policy).sum(-1)
    columns = [ones, draw.explored.double(), draw.confidence, entropy, step.undrawable.double()]
    if step.entropy_final is not None:
        columns.append(step.entropy_final.double())
    added = torch.stack(columns, dim=1)  # (n, the first statistics)
    if mask is not None:
        added = torch.where(mask[:, None], added, 0.0)
    if len(step.rows) == len(sums):
        sums[:, : len(columns)] += added
    else:
        sums[:, : len(columns)].index_add_(0, step.rows, added)
    if draw.next_input is not None and draw.next_input.stopped is not None:
        stopped = draw.next_input.stopped if mask is None else draw.next_input.stopped & mask
        sums[:, COLD_STOPS].index_add_(0, step.rows, stopped.double())
    if (read := draw.read) is None:
        return
    counts = ones if read.rows is None else ones[: len(read.rows)]
    for counted in (mask, read.mask) if read.rows is None else ():
        counts = counts if counted is None else torch.where(counted, counts, 0.0)
    rows = step.rows if read.rows is None else step.rows[read.rows]
    sums.view(-1).index_add_(0, rows * sums.shape[1] + (len(STATISTICS) + read.depth), counts)
