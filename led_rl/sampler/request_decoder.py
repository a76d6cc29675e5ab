"""Follows the requests that ask for a decoding of ours, draws their tokens, and counts: the same for every runner.

The runners (vllm_v1.py, vllm_v2.py) know vLLM and the decodings (decodings/) know the method; this lies between.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from led_rl.decoding import DECODINGS, DecodingParams
from led_rl.sampler.capture_options import EngineOptions
from led_rl.sampler.decodings import DRAWS
from led_rl.sampler.on_cpu import loops as cpu_kernels
from led_rl.sampler.on_cpu.draw import CPUDraw, compiles
from led_rl.sampler.on_gpu.draw import Workspace, draw_on_device, fuses, warm_up, write_policy
from led_rl.sampler.request_slots import DECODING, DecodingSlots, Needs, Working, decoding_of
from led_rl.sampler.step import Draw, LatentModel, Read, Step
from led_rl.sampler.support import StepSupport
from led_rl.sampler.uniforms import uniforms
from led_rl.thinking import MissingMarkersError, ThinkMarkers

STATISTICS = ("rows", "explored", "confidence", "entropy_mu", "entropy_final")


@dataclass
class Drawn:
    """A step's tokens, for the runner. On CPU only the rows concerned; on a device all rows, to spare it a sync."""

    rows: Tensor  # (n,) int64 rows of the engine's batch, ascending
    active: Tensor | None  # (n,) bool: rows to take from here; None: all of them
    tokens: Tensor  # (n,)
    candidates: Tensor  # (n, k)
    policy: Tensor  # (n, k) float64
    explored: Tensor  # (n,) float64

    def write_policy(self, scores: Tensor) -> Tensor:
        """Writes log-policies over the rows concerned of (rows, vocab) log-probabilities, in place."""
        if self.active is None:
            concerned = self.rows.numpy(), self.candidates.numpy(), self.policy.numpy()
            cpu_kernels.write_policy(scores.numpy(), *concerned)
            return scores
        return write_policy(scores, self.active, self.candidates, self.policy)


@dataclass
class TracedStep:
    """One step's rows, on the host."""

    extra_args: list[Mapping[str, Any] | None]  # (rows,) of the row's request, None for requests that decode as usual
    positions: Tensor  # (rows,) of the token fed in
    active: Tensor  # (rows,) bool: decodes as its request asks
    draws: dict[int, tuple["TracedDraw", int]]  # by row: the draw that served it, and its index there


@dataclass
class TracedDraw:
    """A `Draw` with what was read of latent layers spread over its rows."""

    candidates: Tensor  # (n, k)
    policy: Tensor  # (n, k)
    explored: Tensor  # (n,)
    confidence: Tensor  # (n,)
    read: Tensor | None = None  # (n,) bool; None: of no row
    depth: Tensor | None = None  # (n,)
    table: Tensor | None = None  # (n, depth, k)

    @classmethod
    def of(cls, draw: Draw) -> "TracedDraw":
        traced = cls(*(t.clone() for t in (draw.candidates, draw.policy, draw.explored, draw.confidence)))
        if (read := draw.read) is not None:
            n = len(draw.tokens)
            rows = torch.arange(n, device=draw.tokens.device) if read.rows is None else read.rows
            counts = read.depth.new_ones(len(rows)).bool() if read.mask is None else read.mask
            traced.read = counts.new_zeros(n).index_copy(0, rows, counts)
            traced.depth = read.depth.new_zeros(n).index_copy(0, rows, read.depth)
            table = read.table.float()
            traced.table = table.new_zeros(n, *table.shape[1:]).index_copy(0, rows, table)
        return traced


class RequestDecoder:
    """Follows the requests that ask for a decoding of ours and draws their tokens.

    Args:
        vllm_config: the engine's.
        slots: how many requests may be admitted at a time.
    """

    def __init__(self, vllm_config: Any, slots: int, device: torch.device):
        model_config = vllm_config.model_config
        num_layers = model_config.hf_text_config.num_hidden_layers
        options = EngineOptions.from_environment()
        captured = options.captured_layers(num_layers)
        self.final_entropy = options.final_entropy
        self.keeps_support = options.support
        self.step_support: StepSupport | None = None  # of the last step
        self.device = device
        self.slots = DecodingSlots(slots, captured, num_layers, len(STATISTICS) + 1 + len(captured), device)
        self.trace: list[TracedStep] | None = None
        self.step_sums: Tensor | None = None  # (rows, 1 + statistics) of the last step, on its way to the host
        self.verified = not captured
        self._model_config = model_config
        self._markers: dict[tuple[Any, Any], ThinkMarkers | None] = {}
        self._baseline = [0.0] * self.slots.sums.shape[1]
        self._cpu_draw = CPUDraw()
        # Both runners make the decoder before the engine's profiling pass, which so counts what this takes.
        cuda = device.type == "cuda"
        self._workspace = warm_up(self.slots, model_config.get_vocab_size(), self.final_entropy) if cuda else None

    def admit(self, slot: int, params: Any, token_ids: Sequence[int] | None) -> None:
        """Takes a request's SamplingParams; `token_ids` are its prompt and what it has generated so far."""
        if token_ids is None:
            raise RuntimeError("LED follows the thinking phase by token ids: prompt embeddings do not work")
        decoding = decoding_of(params.extra_args)
        seed = params.seed
        if seed is None:  # from the generator that a trainer's checkpoint holds
            seed = int(torch.randint(2**63 - 1, ()))
        self.slots.admit(slot, params.extra_args, self._markers_of(decoding), token_ids, seed, params.temperature)

    def draw(
        self,
        model: LatentModel,
        logits: Tensor,
        slots: Tensor,
        temperature: Tensor,
    ) -> Drawn | None:
        """Draws the tokens of the rows that decode in a way of ours now; None if there are none (known on CPU only).

        Args:
            logits: (rows, vocab), after temperature and everything that edits the final layer's logits.
            slots: (rows,) slot of each row; the spare one for requests that decode as usual.
            temperature: (rows,) with which the logits were divided, anything for greedy rows (theirs were not).
        """
        needs, read_all = self.slots.needs(), not self.verified
        positions = model.led_states.positions[: len(slots)]
        draws: list[tuple[Tensor, Tensor | None, Draw]] = []
        if fuses(needs, logits):
            self.slots.flush()
            if self._workspace is None or not self._workspace.fits(logits):
                self._workspace = Workspace.of(len(logits), logits.shape[1], logits.device)
            active, draw, sums = draw_on_device(
                self.slots, slots, temperature, model, logits, needs, read_all, self.final_entropy, self._workspace
            )
            draws.append((self._workspace.rows[: len(slots)], active, draw))
        else:
            working = self.slots.at(slots, temperature)
            if logits.device.type == "cpu" and compiles(needs):
                wants_read = read_all or self.trace is not None
                found = self._cpu_draw(working, model, logits, needs, read_all, self.final_entropy, wants_read)
                if found is not None:
                    draws.append((found[0], None, found[1]))
            else:
                draws = self._draws(working, model, logits, positions, needs)
            sums = torch.cat([working.known_column, working.sums], dim=1)
        for _, mask, draw in draws:
            if not self.verified and draw.read is not None:
                self._verify(draw.read, mask)
        if self.trace is not None:
            self._trace(slots, positions, draws)
        self.step_sums = sums.to("cpu", non_blocking=True)  # request_statistics.py takes it with the step's tokens
        return merged(
            [Drawn(rows, mask, d.tokens, d.candidates, d.policy, d.explored.double()) for rows, mask, d in draws]
        )

    def note_support(self, drawn: Drawn | None, logits: Tensor, scores: Tensor | None) -> None:
        """Keeps what the step's rows could have drawn, if the engine was built to say so.

        `scores`: (rows, vocab) processed log-probabilities if a standard row of the step is truncated, else None.
        """
        if self.keeps_support:
            parts = (
                None if drawn is None else (drawn.rows, drawn.active, drawn.candidates, drawn.policy, drawn.explored)
            )
            self.step_support = StepSupport.of(logits, parts, scores)

    def tensors(self) -> dict[str, Tensor]:
        """What lies on the device for as long as the decoder: tables of requests, and the workspace of a step."""
        owners = {"slots": vars(self.slots), "workspace": vars(self._workspace) if self._workspace else {}}
        return {
            f"led_{owner}_{name}": value
            for owner, values in owners.items()
            for name, value in values.items()
            if isinstance(value, Tensor)
        }

    def _draws(
        self, working: Working, model: LatentModel, logits: Tensor, positions: Tensor, needs: Needs
    ) -> list[tuple[Tensor, Tensor | None, Draw]]:
        """Rows, which of them count (None: all) and their draw, for each decoding of the batch."""
        active = working.follow(model.led_states.tokens[: len(positions)], positions)
        uniform = uniforms(working.keys, positions)
        draws: list[tuple[Tensor, Tensor | None, Draw]] = []
        for kind in needs.decodings:
            mask = active if len(needs.decodings) == 1 else active & (working.settings[:, DECODING] == kind)
            rows = mask.nonzero().squeeze(1) if mask.device.type == "cpu" else working.rows
            if not len(rows):
                continue
            step = Step(
                logits,
                rows,
                working.settings,
                working.temperature,
                uniform,
                needs,
                model,
                not self.verified,
                self.final_entropy,
            )
            if len(rows) < len(positions):
                step.logits, step.settings = logits[rows], step.settings[rows]
                step.temperature, step.uniform = step.temperature[rows], uniform[rows]
            step.logits = step.logits.float()
            draw = DRAWS[DECODINGS[kind]](step)
            counts = None if mask.device.type == "cpu" else mask
            self._count(step, draw, working.sums, counts)
            draws.append((rows, counts, draw))
        return draws

    def _trace(self, slots: Tensor, positions: Tensor, draws: list[tuple[Tensor, Tensor | None, Draw]]) -> None:
        assert self.trace is not None
        active = torch.zeros(len(slots), dtype=torch.bool)
        traced: dict[int, tuple[TracedDraw, int]] = {}
        for rows, mask, draw in draws:
            spread = TracedDraw.of(draw)
            counts = [True] * len(rows) if mask is None else mask.tolist()
            traced |= {row: (spread, i) for i, row in enumerate(rows.tolist()) if counts[i]}
        active[list(traced)] = True
        admitted = [self.slots.slots.get(slot) for slot in slots.tolist()]
        extra_args = [None if slot is None else slot.extra_args for slot in admitted]
        self.trace.append(TracedStep(extra_args, positions.cpu().clone(), active, traced))

    def totals(self, reset: bool = False) -> dict[str, float]:
        """Sums over all rows drawn so far, or since the last reset; synchronises with the device.

        `rows` drawn; `explored`, of those, from the latent branch (a marginal draw counts its probability 1 - max p_L);
        `confidence` (max p_L); `read`: rows whose latent layers were read; `entropy_mu` in nats of what the token was
        drawn from (mu, or the coin's branch); `entropy_final` of the final layer over the whole vocabulary, if the
        engine counts it; `depth_j` of `read`: rows that aggregate j latent layers.
        """
        self.slots.settle()
        sums = (self.slots.retired + self.slots.sums.sum(0)).tolist()
        values = [now - before for now, before in zip(sums, self._baseline, strict=True)]
        if reset:
            self._baseline = sums
        return named_statistics(values)

    def _count(self, step: Step, draw: Draw, sums: Tensor, mask: Tensor | None) -> None:
        """Adds a draw to the batch's sums (rows, statistics)."""
        ones = torch.ones_like(draw.confidence)
        columns = [ones, draw.explored.double(), draw.confidence, torch.special.entr(draw.policy).sum(-1)]
        if step.entropy_final is not None:
            columns.append(step.entropy_final.double())
        added = torch.stack(columns, dim=1)  # (n, the first statistics)
        if mask is not None:
            added = torch.where(mask[:, None], added, 0.0)
        if len(step.rows) == len(sums):
            sums[:, : len(columns)] += added
        else:
            sums[:, : len(columns)].index_add_(0, step.rows, added)
        if (read := draw.read) is None:
            return
        counts = ones if read.rows is None else ones[: len(read.rows)]
        for counted in (mask, read.mask) if read.rows is None else ():
            counts = counts if counted is None else torch.where(counted, counts, 0.0)
        rows = step.rows if read.rows is None else step.rows[read.rows]
        sums.view(-1).index_add_(0, rows * sums.shape[1] + (len(STATISTICS) + read.depth), counts)

    def _verify(self, read: Read, mask: Tensor | None) -> None:
        """Looks at the first latent tables: a broken engine must stop, not sample something else. Synchronises once."""
        table = read.table
        for counts in (mask, read.mask):
            if counts is not None:
                table = table.where(counts[:, None, None], 0.0)  # knows nothing
        # Rows that know nothing, such as those of a token whose embedding is zero, rightly agree in every layer.
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
        self.verified = True

    def _markers_of(self, decoding: DecodingParams) -> ThinkMarkers | None:
        """Think markers as the engine's tokenizer spells them; None without (refused at submission if they matter)."""
        key = decoding.start_marker, decoding.end_marker
        if key not in self._markers:
            self._markers[key] = markers_of(self._model_config, *key)
        return self._markers[key]


def markers_of(model_config: Any, start: str | tuple[int, ...], end: str | tuple[int, ...]) -> ThinkMarkers | None:
    from vllm.tokenizers.registry import cached_tokenizer_from_config

    tokenizer = None if model_config.skip_tokenizer_init else cached_tokenizer_from_config(model_config)
    if tokenizer is None and (isinstance(start, str) or isinstance(end, str)):
        return None
    try:
        return ThinkMarkers.from_tokenizer(tokenizer, start, end)  # type: ignore[arg-type]
    except MissingMarkersError:
        return None


def named_statistics(values: Sequence[float]) -> dict[str, float]:
    """Names of a row of `DecodingSlots.sums`; `read` is the sum of the depths."""
    depths = values[len(STATISTICS) :]
    return {
        **dict(zip(STATISTICS, values, strict=False)),
        "read": sum(depths),
        **{f"depth_{j}": count for j, count in enumerate(depths)},
    }


def merged(drawn: list[Drawn]) -> Drawn | None:
    """The draws of several decodings as one."""
    if len(drawn) < 2:
        return drawn[0] if drawn else None
    if drawn[0].active is None:
        rows = torch.cat([d.rows for d in drawn])
        order = rows.argsort()
        tokens, candidates, policy, explored = (
            torch.cat([getattr(d, name) for d in drawn])[order]
            for name in ("tokens", "candidates", "policy", "explored")
        )
        return Drawn(rows[order], None, tokens, candidates, policy, explored)
    result = drawn[0]
    for d in drawn[1:]:
        mine = d.active
        assert mine is not None
        assert result.active is not None
        result = Drawn(
            d.rows,
            result.active | mine,
            torch.where(mine, d.tokens, result.tokens),
            torch.where(mine[:, None], d.candidates, result.candidates),
            torch.where(mine[:, None], d.policy, result.policy),
            torch.where(mine, d.explored, result.explored),
        )
    return result
