"""What an evaluation is made of: problems, arms (ways of decoding), checkpoints; and how each is recognised again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from led_rl.data import read_jsonl
from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.evaluation.records import EvaluationError


@dataclass(frozen=True)
class Arm:
    """One way of decoding in a comparison."""

    decoding: DecodingParams
    sampling: Sampling


@dataclass(frozen=True)
class Problem:
    """A user message and the columns that its reward reads."""

    id: str
    problem: str
    columns: dict[str, Any] = field(default_factory=dict)


def comparison_arms(
    names: Sequence[str], sampling: Sampling, depth: int = 8, k: int = 8, **led_options: Any
) -> dict[str, Arm]:
    """Arms named like their decodings, all at the same sampling settings; `led` also takes `led_options`."""
    options: dict[str, dict[str, Any]] = {"led": {"depth": depth, "k": k, **led_options}, "top_k_control": {"k": k}}
    return {name: Arm(DecodingParams(decoding=name, **options.get(name, {})), sampling) for name in names}


def load_problems(path: str | Path, limit: int | None = None) -> list[Problem]:
    """The first `limit` rows of a JSONL file with a `problem` in each row; `id` defaults to the line's number.

    Raises:
        DatasetError, EvaluationError: name the file and the line.
    """
    problems: dict[str, Problem] = {}
    for number, row in read_jsonl(path, limit):
        if not isinstance(row.get("problem"), str):
            raise EvaluationError(f"{path}, line {number}: no text under the key 'problem'")
        identity = str(row.get("id", number))
        if identity in problems:
            raise EvaluationError(f"{path}, line {number}: repeats the id {identity!r}")
        columns = {key: value for key, value in row.items() if key not in ("id", "problem")}
        problems[identity] = Problem(identity, row["problem"], columns)
    return list(problems.values())


def fingerprint(problems: Sequence[Problem], prompts: Sequence[list[int]]) -> str:
    """Changes with any problem, column or prompt token (so with the chat template too)."""
    content = json.dumps([[asdict(problem) for problem in problems], list(prompts)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def weights_of(checkpoint: str | Path) -> str:
    """What recognises a checkpoint: a hash of its weight files' content, or a hub id itself."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return str(checkpoint)
    files = sorted(file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern))
    if not files:
        raise EvaluationError(f"checkpoint {folder} holds no weights (*.safetensors or *.bin)")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
