"""What an evaluation is made of: problems, arms (ways of decoding), checkpoints; and how each is recognised again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from led_rl.data import PROBLEM_COLUMNS, extract_answer, read_jsonl
from led_rl.decoding import DecodingParams
from led_rl.engines.engine import Sampling
from led_rl.evaluation.records import EvaluationError

# Every reward is given arguments of these names (TRL's signature).
ARGUMENTS = ("prompts", "completions", "completion_ids")


class ChatTokenizer(Protocol):
    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...

    def batch_decode(self, sequences: list[list[int]], **options: Any) -> list[str]: ...


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
    """Arms named like their decodings, all at the same sampling settings.

    `led` and `led_reference` take `depth`, `k` and `led_options`; `top_k_control` takes `k`.
    """
    led = {"depth": depth, "k": k, **led_options}
    options: dict[str, dict[str, Any]] = {"led": led, "led_reference": led, "top_k_control": {"k": k}}
    return {name: Arm(DecodingParams(decoding=name, **options.get(name, {})), sampling) for name in names}


def load_problems(
    path: str | Path, limit: int | None = None, problem_column: str | None = None, answer_column: str | None = None
) -> list[Problem]:
    """The first `limit` rows of a JSONL file with a problem in each row; `id` defaults to the line's number.

    Args:
        problem_column: the text that is asked; by default the first of PROBLEM_COLUMNS that the first row has.
        answer_column: the gold, which rewards read as `answer`: its whole, or what follows `####` (GSM8K).

    Raises:
        DatasetError, EvaluationError: name the file and the line.
    """
    problems: dict[str, Problem] = {}
    for number, row in read_jsonl(path, limit):
        here = f"{path}, line {number}"
        problem_column = problem_column or next((name for name in PROBLEM_COLUMNS if name in row), PROBLEM_COLUMNS[0])
        if not isinstance(row.get(problem_column), str):
            raise EvaluationError(f"{here}: no text under the key {problem_column!r}; keys: {', '.join(row)}")
        if reserved := [name for name in ARGUMENTS if name in row]:
            raise EvaluationError(f"{here}: rename the key {reserved[0]!r}: rewards have an argument of this name")
        identity = str(row.get("id", number))
        if identity in problems:
            raise EvaluationError(f"{here}: repeats the id {identity!r}")
        columns = {key: value for key, value in row.items() if key not in ("id", "problem", problem_column)}
        if answer_column:
            columns["answer"] = _answer(row, answer_column, here)
        problems[identity] = Problem(identity, row[problem_column], columns)
    return list(problems.values())


def _answer(row: dict[str, Any], column: str, here: str) -> str:
    if row.get(column) is None:
        raise EvaluationError(f"{here}: no answer under the key {column!r}; keys: {', '.join(row)}")
    answer = extract_answer(str(row[column]), "auto")
    if answer is None:
        raise EvaluationError(f"{here}: nothing follows `####` under the key {column!r}")
    return answer


def prompt_ids(tokenizer: ChatTokenizer, problem: str) -> list[int]:
    """The prompt in which a problem is asked, as tokens."""
    message = [{"role": "user", "content": problem}]
    return list(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False))


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
