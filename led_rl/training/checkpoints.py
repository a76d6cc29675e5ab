"""Whether a checkpoint is whole: every file that a resume reads is there and can be read."""

import json
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

NAME = re.compile(r"checkpoint-(\d+)$")  # checkpoint-best and copies of checkpoints are none of the run's
STATE = "trainer_state.json"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "pytorch_model.bin")
OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_0")
SHARDED = ("latest", "pytorch_model_fsdp_0")  # DeepSpeed's and FSDP's marks: weights and optimizer lie in folders
NOT_OF_THE_MODEL = ("optimizer", "scheduler", "rng_state", "scaler", "trainer_state", "latest", "zero_to_fp32")


def numbered(folder: Path) -> list[Path]:
    """The run's checkpoints in its folder, the newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def flaw_of(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed, in a few words; None if it is whole."""
    flaw = flaw_of_state(checkpoint / STATE)
    if flaw:
        return flaw
    latest = checkpoint / "latest"  # DeepSpeed's: the name of the folder of its shards
    if latest.is_file() and not any((checkpoint / latest.read_text().strip()).glob("*optim_states.pt")):
        return f"no optimizer states in {latest.read_text().strip() or 'its folder'}"
    sharded = any((checkpoint / name).exists() for name in SHARDED)
    if not sharded:
        flaw = flaw_of_model(checkpoint)
        if flaw:
            return flaw
        if not any((checkpoint / name).exists() for name in OPTIMIZERS):
            return "no optimizer.pt"
        if not (checkpoint / "scheduler.pt").exists():
            return "no scheduler.pt"
    if not processes_of(checkpoint):
        return "no rng_state"
    flaws = (_flaw_of_torch_file(path) for path in _torch_files(checkpoint))
    return next((flaw for flaw in flaws if flaw), None)


def flaw_of_state(path: Path) -> str | None:
    if not path.is_file():
        return f"no {path.name}"
    try:
        return None if isinstance(json.loads(path.read_text(encoding="utf-8"))["global_step"], int) else "no step"
    except (ValueError, KeyError, TypeError):
        return f"{path.name} is cut or empty"


def flaw_of_model(folder: Path) -> str | None:
    """What keeps the weights in a folder from being loaded; shards by their index."""
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return f"{index.name} is cut or empty"
        missing = sorted(name for name in shards if not (folder / name).is_file())
        if missing:
            return f"no {missing[0]}"
    files = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    if not files:
        return f"no {WEIGHTS[0]}"
    return next((flaw for flaw in map(_flaw_of_weights, sorted(files)) if flaw), None)


def processes_of(checkpoint: Path) -> int:
    """How many processes wrote a checkpoint: each keeps its random state."""
    return len(list(checkpoint.glob("rng_state*.pth")))


def model_files(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that make a model: weights, config, tokenizer."""
    return [path for path in checkpoint.iterdir() if path.is_file() and not path.name.startswith(NOT_OF_THE_MODEL)]


def _flaw_of_weights(path: Path) -> str | None:
    if path.suffix == ".bin":
        return _flaw_of_torch_file(path)
    with path.open("rb") as file:  # https://huggingface.co/docs/safetensors: length of the header, header, data
        start = file.read(8)
        try:
            length = struct.unpack("<Q", start)[0]
            header = json.loads(file.read(length)) if length < path.stat().st_size else {"cut": {}}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (struct.error, ValueError, KeyError, AttributeError):
            return f"{path.name} is cut or empty"
    return None if path.stat().st_size == 8 + length + max(ends, default=0) else f"{path.name} is cut"


def _torch_files(checkpoint: Path) -> Iterator[Path]:
    for suffix in ("pt", "pth", "bin"):
        yield from (path for path in checkpoint.rglob(f"*.{suffix}") if path.name != "training_args.bin")


def _flaw_of_torch_file(path: Path) -> str | None:
    """torch saves zip files, whose directory is written last."""
    return None if zipfile.is_zipfile(path) else f"{path.name} is cut or empty"
