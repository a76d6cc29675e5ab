"""What the loss over sampled supports costs beside TRL's loss over the vocabulary: seconds and memory of one update.

Both score the same batch with the same weights, forward and backward, through TRL's fused LM head. They take turns, and
the order changes from round to round, so that the machine's drift cancels in the ratio of a round's two measurements.
The support mass is gauged as in training. Generation is left out: it is the same for both.
"""

import json
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from led_rl.benchmarks.machine import machine, versions
from led_rl.benchmarks.ratios import Ratios, spread, within
from led_rl.benchmarks.shapes import write_shape
from led_rl.terminal.tables import text_table

RESULTS = "benchmark-loss.json"
ARMS = ("vocabulary", "sampled")
PROMPT, ANSWER = 11, 10  # tokens of a prompt, and of an answer after thinking, which is drawn from the vocabulary


@dataclass(frozen=True)
class Work:
    """One batch: completions of `tokens` at most, a quarter of that at least, thinking tokens with k candidates."""

    shape: str
    completions: int
    tokens: int
    k: int
    rounds: int


def benchmark(work: Work, output: Path) -> str:
    """Measures, writes benchmark-loss.json, and returns the table."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from led_rl.training.supported_loss import Supports, SupportSwitch

    torch.manual_seed(0)
    random.seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with tempfile.TemporaryDirectory() as folder:
        described = write_shape(work.shape, Path(folder), PROMPT + work.tokens)
        config = AutoConfig.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device)
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    switch = SupportSwitch()
    switch.install(model)

    rows, tokens, vocab = work.completions, work.tokens, described.vocab
    lengths = torch.tensor([random.randint(max(1, tokens // 4), tokens) for _ in range(rows)])
    position = torch.arange(tokens)
    input_ids = torch.randint(vocab, (rows, PROMPT + tokens))
    mask = torch.cat([torch.ones(rows, PROMPT, dtype=torch.bool), position < lengths[:, None]], dim=1)
    labels = input_ids.masked_fill(~mask, -100)
    labels[:, :PROMPT] = -100
    ids = torch.randint(vocab, (rows, tokens, min(work.k, vocab)))
    ids[..., 0] = input_ids[:, PROMPT:]
    ids[position >= lengths[:, None] - ANSWER] = -1
    supports = Supports(ids.to(device), torch.zeros(rows, tokens, device=device))
    batch = {"input_ids": input_ids.to(device), "attention_mask": mask.long().to(device), "labels": labels.to(device)}

    def update(arm: str) -> tuple[float, float]:
        model.zero_grad(set_to_none=True)
        memory = Memory(device)
        start = time.perf_counter()
        if arm == "sampled":
            with switch.over(supports, gauges=True):
                scored = model(**batch, fused_lm_head=True)
        else:
            scored = model(**batch, fused_lm_head=True)
        scored.log_probs.mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, memory.added()

    for arm in ARMS:
        update(arm)  # warm-up
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for number in range(work.rounds):
        for arm in ARMS if number % 2 else ARMS[::-1]:
            found[arm].append(update(arm))
    sampled, vocabulary = found["sampled"], found["vocabulary"]
    seconds = spread([ours / theirs for (ours, _), (theirs, _) in zip(sampled, vocabulary, strict=True)])
    mebibytes = spread([ours / theirs for (_, ours), (_, theirs) in zip(sampled, vocabulary, strict=True)])
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "work": asdict(work), "measured": found}
    report |= {name: ratios and asdict(ratios) for name, ratios in (("seconds", seconds), ("memory", mebibytes))}
    (output / RESULTS).write_text(json.dumps(report, indent=1), encoding="utf-8")
    return _table(work, vocab, found, seconds, mebibytes)


class Memory:
    """Peak memory of the process (CPU: resident; GPU: allocated) above what it held when this was made, in MiB."""

    def __init__(self, device: Any):
        import torch

        self.device, self.torch = device, torch
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 2**20
        else:
            self.before = _resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM

    def added(self) -> float:
        if self.device.type == "cuda":
            return self.torch.cuda.max_memory_allocated() / 2**20 - self.before
        return max(1.0, _resident("VmHWM") - self.before)


def _resident(key: str) -> float:
    """A line of /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def _table(
    work: Work,
    vocab: int,
    found: dict[str, list[tuple[float, float]]],
    seconds: Ratios | None,
    mebibytes: Ratios | None,
) -> str:
    lines = []
    for place, (what, ratios) in enumerate((("seconds", seconds), ("MiB at the peak", mebibytes))):
        middle = [sorted(values[place] for values in found[arm])[work.rounds // 2] for arm in ARMS]
        written = ["-", "-"] if ratios is None else [within(ratios.median, ratios.quartiles)]
        written += [] if ratios is None else [within(ratios.mean, ratios.interval)]
        lines.append([what, *(f"{value:.3f}" for value in middle), *written, str(work.rounds)])
    head = ["one update", *ARMS, "sampled / vocabulary [quartiles]", "mean [95 % interval]", "n"]
    size = f"{work.completions} completions of up to {work.tokens} tokens"
    title = f"{work.shape}: vocabulary {vocab:,}, {size}, k {work.k}"
    return f"{title}\n{text_table(head, lines)}"
