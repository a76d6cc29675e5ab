"""Supervised warm-up of the toy reasoning model from random weights: `python -m led_rl.toy.warmup OUTPUT_DIR`.

Writes an ordinary Hugging Face checkpoint, the task's train.jsonl and test.jsonl, and warmup.json, which comes last and
marks the directory as complete. What is learnt is a function of the settings, not of the clock; an interrupted run that
is started again ends with the same weights, bit for bit, as one that never stopped.
"""

import argparse
import itertools
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from led_rl.benchmarks.shapes import SHAPES
from led_rl.terminal.progress_bar import progress_bar
from led_rl.toy import countdown, routes
from led_rl.toy.layer_dropout import dropping_layers
from led_rl.training.stopping import stop_on_sigterm

DEFAULT_STEPS, DEFAULT_RATE = 1200, 2.5e-3
TASKS: dict[str, ModuleType] = {"countdown": countdown, "routes": routes}  # build_tokenizer, problems, traces of each
BATCHES_PER_POOL = 16  # traces are sorted by length within a pool, so a batch holds little padding
LOSS_WINDOW = 50  # steps averaged into one point of the loss curve
IGNORED = -100  # cross_entropy's label of a token that is not learnt
COMPLETE, STATE = "warmup.json", "warmup_state.pt"


class WarmUpError(RuntimeError):
    """The output directory cannot be used for the warm-up that was asked for."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights."""

    steps: int
    seed: int
    batch_size: int
    learning_rate: float
    task: str = "countdown"
    shape: str = "quickstart"
    layer_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ValueError(f"steps, batch_size and learning_rate must be positive, got {self}")
        for key, value, allowed in (("task", self.task, TASKS), ("shape", self.shape, SHAPES)):
            if value not in allowed:
                raise ValueError(f"{key} must be one of {', '.join(allowed)}; got {value!r}")
        if not 0 <= self.layer_dropout < 1:
            raise ValueError(f"layer_dropout must be at least 0 and less than 1, got {self.layer_dropout}")

    def learning_rate_at(self, step: int) -> float:
        """Linear decay to 5 % after a short linear rise."""
        return self.learning_rate * min(1.0, (step + 1) / 40) * max(0.05, 1 - step / self.steps)


@dataclass
class Progress:
    """How far training has come."""

    model: Qwen3ForCausalLM
    optimizer: torch.optim.Optimizer
    losses: list[float]  # one a step
    seconds: float = 0.0

    @property
    def step(self) -> int:
        return len(self.losses)


def warm_up(
    output_dir: str | os.PathLike[str],
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    batch_size: int = 24,
    learning_rate: float = DEFAULT_RATE,
    save_every: int = 500,
    task: str = "countdown",
    shape: str = "quickstart",
    layer_dropout: float = 0.0,
) -> Path:
    """Trains the toy model into `output_dir`, going on where an interrupted run of the same settings last saved.

    Args:
        task: which traces (TASKS); their problems become train.jsonl and test.jsonl.
        shape: which model (benchmarks/shapes.py), with the tokenizer's vocabulary.
        layer_dropout: rate at which an update skips the last layer but one; see layer_dropout.py.

    Returns the directory at once if it already holds the finished warm-up.

    Raises:
        WarmUpError: the directory holds a warm-up of other settings.
    """
    output = Path(output_dir)
    settings = Settings(steps, seed, batch_size, learning_rate, task, shape, layer_dropout)
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1, got {save_every}")
    if (output / COMPLETE).exists():
        _require_same(output, settings, json.loads((output / COMPLETE).read_text())["settings"])
        print(f"{output}: this warm-up of {steps} steps is already complete, nothing to do")
        return output

    output.mkdir(parents=True, exist_ok=True)
    tokenizer = TASKS[task].build_tokenizer()
    progress = _fresh_progress(tokenizer, settings)
    _restore(progress, settings, output)
    _train(progress, settings, tokenizer, lambda: _save(progress, settings, output), save_every)
    _write_checkpoint(progress, settings, tokenizer, output)
    return output


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int, shape: str = "quickstart") -> Qwen3ForCausalLM:
    """A Qwen3 in float32 with random weights: 0.65 M parameters, or of another of SHAPES."""
    config = Qwen3Config(
        **SHAPES[shape].config | {"vocab_size": len(tokenizer)},
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).float()


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, batch_size: int, start: int = 0, task: str = "countdown"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (input_ids, labels), both (batch, tokens), from batch `start` on; each a function of seed and position.

    Labels leave out the prompt and the padding.
    """
    skip = start % BATCHES_PER_POOL
    for pool in itertools.count(start // BATCHES_PER_POOL):
        name = f"{seed}/{pool}"
        examples = list(TASKS[task].traces(batch_size * BATCHES_PER_POOL, name))
        prompts = tokenizer.apply_chat_template(
            [trace.problem.messages for trace in examples], add_generation_prompt=True, return_dict=False
        )
        responses = tokenizer([trace.response for trace in examples])["input_ids"]
        pairs = sorted(zip(prompts, responses, strict=True), key=lambda pair: len(pair[1]))
        chunks = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
        random.Random(name).shuffle(chunks)
        for chunk in chunks[skip:]:
            yield _padded(chunk, tokenizer.pad_token_id)
        skip = 0


def _padded(pairs: list[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor]:
    width = max(len(prompt) + len(response) for prompt, response in pairs)
    input_ids = torch.full((len(pairs), width), pad)
    labels = torch.full((len(pairs), width), IGNORED)
    for row, (prompt, response) in enumerate(pairs):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    return input_ids, labels


def _train(
    progress: Progress,
    settings: Settings,
    tokenizer: PreTrainedTokenizerFast,
    save: Callable[[], None],
    save_every: int,
) -> None:
    data = batches(tokenizer, settings.seed, settings.batch_size, progress.step, settings.task)
    clock = time.perf_counter()
    stopped = threading.Event()
    with _stopping(stopped.set), progress_bar(settings.steps, "warm-up", "step", progress.step) as bar:
        while progress.step < settings.steps:
            with dropping_layers(progress.model, settings.layer_dropout, f"{settings.seed}/{progress.step}"):
                loss = _train_step(progress, settings.learning_rate_at(progress.step), *next(data))
            progress.losses.append(loss)
            progress.seconds += time.perf_counter() - clock
            clock = time.perf_counter()
            bar.advance(note=f"loss {fmean(progress.losses[-LOSS_WINDOW:]):.3f}")
            if progress.step % save_every == 0 or stopped.is_set():
                save()
            if stopped.is_set():
                raise KeyboardInterrupt


def _stopping(request: Callable[[], None]) -> AbstractContextManager[None]:
    """SIGTERM lets the step end, and its state be saved; signals belong to the main thread."""
    main = threading.current_thread() is threading.main_thread()
    return stop_on_sigterm(request) if main else nullcontext()


def _train_step(progress: Progress, learning_rate: float, input_ids: Tensor, labels: Tensor) -> float:
    """One update; returns the mean cross-entropy per response token, nats."""
    device = progress.model.device
    input_ids, labels = input_ids.to(device), labels.to(device)
    logits = progress.model(input_ids[:, :-1], use_cache=False).logits  # (batch, tokens - 1, vocab)
    loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    progress.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(progress.model.parameters(), 1.0)
    for group in progress.optimizer.param_groups:
        group["lr"] = learning_rate
    progress.optimizer.step()
    return loss.item()


def _fresh_progress(tokenizer: PreTrainedTokenizerFast, settings: Settings) -> Progress:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = build_model(tokenizer, settings.seed, settings.shape).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    return Progress(model, optimizer, losses=[])


def _save(progress: Progress, settings: Settings, output: Path) -> None:
    """Neither the data nor the update draws from a random generator, so there is no generator's state to keep."""
    state = {
        "settings": asdict(settings),
        "model": progress.model.state_dict(),
        "optimizer": progress.optimizer.state_dict(),
        "losses": progress.losses,
        "seconds": progress.seconds,
    }
    _write_atomically(output / STATE, lambda temporary: torch.save(state, temporary))


def _restore(progress: Progress, settings: Settings, output: Path) -> None:
    if not (output / STATE).exists():
        return
    state = torch.load(output / STATE, weights_only=True, map_location=progress.model.device)
    _require_same(output, settings, state["settings"])
    progress.model.load_state_dict(state["model"])
    progress.optimizer.load_state_dict(state["optimizer"])
    progress.losses, progress.seconds = state["losses"], state["seconds"]
    print(f"{output}: going on from step {progress.step} of {settings.steps}")


def _require_same(output: Path, wanted: Settings, found: dict[str, Any]) -> None:
    found = {field.name: field.default for field in fields(Settings) if field.default is not MISSING} | found
    if found != asdict(wanted):
        differing = [key for key, value in asdict(wanted).items() if found.get(key) != value]
        raise WarmUpError(
            f"{output} holds a warm-up with "
            + ", ".join(f"{key}={found.get(key)} (asked for: {getattr(wanted, key)})" for key in differing)
            + "; pass the same settings, choose another directory, or delete this one"
        )


def _write_checkpoint(progress: Progress, settings: Settings, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    progress.model.eval().save_pretrained(output)
    tokenizer.save_pretrained(output)
    for split in ("train", "test"):
        rows = [
            {"problem": p.text, "numbers": p.numbers, "target": p.target} for p in TASKS[settings.task].problems(split)
        ]
        (output / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    windows = [progress.losses[i : i + LOSS_WINDOW] for i in range(0, len(progress.losses), LOSS_WINDOW)]
    record = {
        "settings": asdict(settings),
        "steps": settings.steps,
        "seed": settings.seed,
        "seconds": round(progress.seconds, 1),
        "loss_curve": [
            {"step": min((i + 1) * LOSS_WINDOW, settings.steps), "loss": round(fmean(window), 4)}
            for i, window in enumerate(windows)
        ],
    }
    _write_atomically(output / COMPLETE, lambda temporary: temporary.write_text(json.dumps(record, indent=1) + "\n"))
    (output / STATE).unlink(missing_ok=True)


def _write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    temporary.replace(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m led_rl.toy.warmup", description="Train the quickstart's reasoning model from random weights."
    )
    parser.add_argument("output_dir", type=Path, help="where the checkpoint goes; start again there to resume")
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the traces (default: %(default)s)")
    parser.add_argument("--save-every", type=int, default=500, help="steps between saves (default: %(default)s)")
    parser.add_argument("--task", choices=tuple(TASKS), default="countdown", help="what is learnt (%(default)s)")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="quickstart", help="of the model (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=DEFAULT_RATE, help="at its peak (default: %(default)s)")
    parser.add_argument("--layer-dropout", type=float, default=0.0, help="of the last layers (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the fastest for tensors this small, and the same order of summation everywhere
    try:
        warm_up(
            options.output_dir,
            options.steps,
            options.seed,
            learning_rate=options.learning_rate,
            save_every=options.save_every,
            task=options.task,
            shape=options.shape,
            layer_dropout=options.layer_dropout,
        )
    except (WarmUpError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("warm-up: interrupted; started again, it goes on from its last save")


if __name__ == "__main__":
    main()
