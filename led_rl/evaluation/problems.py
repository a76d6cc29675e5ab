"""What is asked in an evaluation, and how it is recognised again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from led_rl.evaluation.rows import EvaluationError

# Every reward is given arguments of these names (TRL's signature).
ARGUMENTS = ("prompts", "completions", "completion_ids")


class ChatTokenizer(Protocol):
    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any: ...

    def batch_decode(self, sequences: list[list[int]], **options: Any) -> list[str]: ...


@dataclass(frozen=True)
class Problem:
    """A user message and the columns that its reward reads."""

    id: str
    problem: str
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptStyle:
    """What stands around a problem: a system message, and options of the chat template (`enable_thinking`)."""

    system_prompt: str | None = None
    template_options: dict[str, Any] = field(default_factory=dict)

    def messages(self, problem: str) -> list[dict[str, str]]:
        """The chat messages in which a problem is asked."""
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": problem}]

    def prompt_ids(self, tokenizer: ChatTokenizer, problem: str) -> list[int]:
        """The prompt in which a problem is asked, as tokens."""
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, **self.template_options}
        return list(tokenizer.apply_chat_template(self.messages(problem), **options))


def fingerprint(problems: Sequence[Problem]) -> str:
    """SHA-256 of all problems and their columns, in hex: another one means that other problems are asked."""
    content = json.dumps([asdict(problem) for problem in problems], sort_keys=True, default=str)
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
