"""Draws the tokens of the requests that a runner has admitted: the same for every runner and device.

The runners (engines/vllm_plugin) know vLLM, the decodings (decodings/) know the method; this lies between.
"""

import torch
from torch import Tensor

from led_rl.sampler.backend import Asked, Backend, Batch, PartDraw
from led_rl.sampler.capture_options import HOOKED, EngineOptions
from led_rl.sampler.carried import MOST_MIXED, Carried
from led_rl.sampler.columns import STATISTICS
from led_rl.sampler.drawn import Drawn, merged
from led_rl.sampler.in_torch import TorchDraw
from led_rl.sampler.request_slots import COMPILED, DecodingSlots
from led_rl.sampler.step import LatentModel
from led_rl.sampler.support import StepSupport
from led_rl.sampler.totals import Totals
from led_rl.sampler.traced_draws import TracedStep, traced_step
from led_rl.sampler.verification import FirstBatchCheck


class RequestDecoder:
    """Draws each step's rows that decode otherwise than standard.

    Args:
        options: what the engine captures.
        num_layers: of the model.
        vocab: size of the vocabulary.
        slots: how many requests may be admitted at a time.
        tied: the model's LM head is its embedding.

    Attributes:
        slots: the admitted requests.
        totals: of all rows drawn.
        trace: what each step drew, if a list is put there.
        step_sums: (rows, 1 + statistics) of the last step, on its way to the host; the engine takes it.
        step_support: what the last step's rows could draw; the engine takes it.
    """

    def __init__(
        self,
        options: EngineOptions,
        num_layers: int,
        vocab: int,
        slots: int,
        device: torch.device,
        tied: bool = False,
    ):
        captured = options.captured_layers(num_layers, tied)
        self.options = options
        self.slots = DecodingSlots(slots, captured, num_layers, len(STATISTICS) + 1 + len(captured), device, tied)
        if any(map(options.admits, HOOKED)):
            self.slots.carried = Carried(slots, MOST_MIXED, device)
        self.totals = Totals(self.slots)
        self.check = FirstBatchCheck(captures=bool(captured))
        self.trace: list[TracedStep] | None = None
        self.step_sums: Tensor | None = None
        self.step_support: StepSupport | None = None
        # Runners make the decoder before the engine's profiling pass, which so counts what this takes.
        self.backends = backends_of(self.slots, vocab, options.final_entropy)

    def draw(self, model: LatentModel, logits: Tensor, index: Tensor, temperature: Tensor) -> Drawn | None:
        """Draws the tokens of the rows that decode as their request asks; None if there are none (known on CPU only).

        The arguments are those of `Batch`.
        """
        read_all = not self.check.done
        asked = Asked(read_all, read_all or self.trace is not None, self.options.final_entropy)
        draws: list[PartDraw] = []
        groups = grouped(self.slots.needs().decodings)
        for kinds in groups:
            needs = self.slots.needs() if len(groups) == 1 else self.slots.needs(kinds)
            batch = Batch(self.slots, index, temperature, model, logits, needs)
            backend = next(each for each in self.backends if each.takes(needs, logits))
            if len(groups) == 1:
                draws, sums = backend.draw(batch, asked)
            else:
                with self.slots.only(kinds):
                    part, sums = backend.draw(batch, asked)
                draws += part
        if self.slots.carried is not None:
            self.slots.carried.record()
        if read_all:
            self.check.look(draws)
        if self.trace is not None:
            self.trace.append(traced_step(self.slots, index, model.led_states.positions[: len(index)], draws))
        self.step_sums = sums.to("cpu", non_blocking=True)
        return merged(
            [
                Drawn(rows, active, d.tokens, d.candidates, d.policy, d.explored.double())
                for rows, active, d in draws
                if d.tokens is not None
            ]
        )

    def note_support(self, drawn: Drawn | None, logits: Tensor, scores: Tensor | None) -> None:
        """Keeps what the step's rows could have drawn, if the engine was built to say so.

        `scores`: (rows, vocab) processed log-probabilities if a standard row of the step is truncated, else None.
        """
        if self.options.support:
            self.step_support = StepSupport.of(logits, drawn, scores)
        elif self.options.explored:
            self.step_support = StepSupport.of(logits, drawn, None).without_ids()

    def tensors(self) -> dict[str, Tensor]:
        """What lies on the device for as long as the decoder: tables of requests, and the workspace of a step."""
        kept = {f"led_slots_{name}": value for name, value in vars(self.slots).items() if isinstance(value, Tensor)}
        if self.slots.carried is not None:
            kept |= {f"led_carried_{name}": value for name, value in self.slots.carried.tensors().items()}
        for backend in self.backends:
            kept |= {f"led_workspace_{name}": value for name, value in backend.tensors().items()}
        return kept


def grouped(kinds: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The decodings of a batch in groups, each drawn as in a batch without the others, to the bit.

    LED and the control are one group, which the fused backends know, and every other decoding is one by itself.
    """
    together = tuple(kind for kind in kinds if kind in COMPILED)
    return [*([together] if together else []), *((kind,) for kind in kinds if kind not in COMPILED)]


def backends_of(slots: DecodingSlots, vocab: int, final_entropy: bool) -> tuple[Backend, ...]:
    """The ways to draw on a device, the first that takes a batch draws it; only the device's own are imported."""
    if slots.device.type == "cuda":
        from led_rl.sampler.on_gpu.draw import FusedDraw

        return FusedDraw.warmed_up(slots, vocab, final_entropy), TorchDraw()
    from led_rl.sampler.on_cpu.draw import CompiledDraw

    return CompiledDraw(), TorchDraw()
