"""What an evaluation needs of its checkpoints, checked before any weights are loaded.

Checkpoints may be of several architectures: an engine is built anew where the next checkpoint differs in more than its
weights. LoRA adapters are merged into their base model when their turn comes.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from led_rl.decoding import DecodingError, check_decoding
from led_rl.evaluation.adapters import ADAPTER, base_of, check_fit, first_line, merge
from led_rl.evaluation.arms import Arm
from led_rl.evaluation.problems import Problem, PromptStyle, weights_of
from led_rl.evaluation.records import flattened
from led_rl.evaluation.rows import EvaluationError
from led_rl.thinking import MissingMarkersError

# Prompts reach the engine as token ids without padding, and weights are cast to the engine's type.
NO_INFLUENCE = frozenset(
    ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "pad_token_id", "bos_token_id")
)


@dataclass(frozen=True)
class Model:
    """A checkpoint whose configuration and tokenizer could be read.

    Attributes:
        base: what a LoRA adapter is merged into; None for whole checkpoints.
        end_tokens: ids that end a completion, by the generation configuration.
    """

    path: str
    config: Any
    tokenizer: Any
    base: str | None
    end_tokens: tuple[int, ...]

    def fits_engine_of(self, other: "Model") -> bool:
        """Whether an engine that was built for `other` needs only other weights to run this."""
        a, b = flattened(self.config.to_dict()), flattened(other.config.to_dict())
        keys = [key for key in a.keys() | b.keys() if key.rsplit(".", 1)[-1] not in NO_INFLUENCE]
        return (
            all(a.get(key) == b.get(key) for key in keys)
            and self.end_tokens == other.end_tokens
            and self.tokenizer.get_vocab() == other.tokenizer.get_vocab()
        )

    def merged_into(self, folder: Path) -> str:
        """Writes base and adapter as one checkpoint into `folder`; returns what an engine loads."""
        if self.base is None:
            return self.path
        return merge(self.path, self.base, self.tokenizer, folder)


def find_checkpoints(given: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Label -> folder or hub id. `LABEL=PATH` or `PATH`, whose label is its last part.

    A run folder stands for every `checkpoint-*` in it, in the order of steps; it is a checkpoint itself if it holds a
    configuration. `runs/x/checkpoint-*` names them all in any case.
    """
    pairs = [*given.items()] if isinstance(given, Mapping) else [_labelled(text) for text in given]
    checkpoints: dict[str, str] = {}
    for label, path in pairs:
        if not (label.strip() and path.strip()):
            raise EvaluationError(f"checkpoints: a label and a path expected (LABEL=PATH), got {label!r} and {path!r}")
        folder = Path(path).expanduser()
        found = {label: str(folder) if folder.is_dir() else path}
        pattern, where = ("checkpoint-*", folder) if folder.is_dir() else (folder.name, folder.parent)
        if "*" in path or (folder.is_dir() and not any((folder / name).exists() for name in ("config.json", ADAPTER))):
            inner = [p for p in where.glob(pattern) if any((p / name).exists() for name in ("config.json", ADAPTER))]
            inner.sort(key=lambda p: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", p.name)])
            stem = where.name if "*" in label else label
            found = {f"{stem}/{p.name}": str(p) for p in inner} or found
        for name, place in found.items():
            if name in checkpoints:
                raise EvaluationError(f"two checkpoints are called {name!r}; give them labels: LABEL=PATH")
            checkpoints[name] = place
    if not checkpoints:
        raise EvaluationError("an evaluation needs at least one checkpoint")
    return checkpoints


def _labelled(text: str) -> tuple[str, str]:
    label, separator, path = text.partition("=")
    return (label, path) if separator else (text.rstrip("/").rsplit("/", 1)[-1], text)


def check_checkpoints(
    checkpoints: Mapping[str, str],
    problems: Mapping[str, Sequence[Problem]],
    arms: Mapping[str, Arm],
    style: PromptStyle,
) -> dict[str, Model]:
    """The checkpoints' models, if each can run every problem under every arm.

    Args:
        checkpoints: label -> folder or hub id.
        problems: by benchmark.

    Raises:
        EvaluationError: names the checkpoint, what is wrong with it, and what is allowed.
    """
    models = {}
    for label, path in checkpoints.items():
        model = models[label] = _read(label, path)
        for name, arm in arms.items():
            try:
                check_decoding(arm.decoding, model.config, model.tokenizer)
            except (DecodingError, MissingMarkersError) as error:
                raise EvaluationError(f"checkpoint {label}, arm {name}: {error}") from error
        _check_lengths(label, model, problems, arms, style)
    return models


def identity(model: Model) -> dict[str, str]:
    """What recognises a checkpoint in a manifest: its weights, and how its prompts are written."""
    weights = weights_of(model.path) + ("" if model.base is None else f"+{weights_of(model.base)}")
    template = json.dumps(model.tokenizer.chat_template, sort_keys=True).encode()
    return {"weights": weights, "chat_template": hashlib.sha256(template).hexdigest()[:16]}


def _read(label: str, checkpoint: str) -> Model:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    folder = Path(checkpoint)
    if folder.is_file():
        raise EvaluationError(f"checkpoint {label}: {checkpoint!r} is a file, and a checkpoint is a folder")
    if not folder.is_dir() and (folder.exists() or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1):
        raise EvaluationError(f"checkpoint {label}: folder {checkpoint!r} does not exist")
    base = base_of(label, folder) if (folder / ADAPTER).is_file() else None
    if folder.is_dir() and base is None and not (folder / "config.json").is_file():
        raise EvaluationError(f"checkpoint {label}: folder {checkpoint!r} holds neither config.json nor checkpoint-*")
    named = base or checkpoint
    try:
        weights_of(checkpoint)
        weights_of(named)
        config = AutoConfig.from_pretrained(named)
        own_tokenizer = base is None or any(folder.glob("tokenizer*"))
        tokenizer = AutoTokenizer.from_pretrained(checkpoint if own_tokenizer else named)
    except EvaluationError as error:
        raise EvaluationError(f"checkpoint {label}: {error}") from error
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:  # a list for a mapping, say
        told = first_line(error)
        if base is not None:
            raise EvaluationError(
                f"checkpoint {label}: the LoRA adapter {checkpoint!r} needs its base model {base!r}, which is neither "
                f"a checkpoint folder nor a model the hub gives: {told}"
            ) from error
        raise EvaluationError(
            f"checkpoint {label}: {checkpoint!r} is neither a checkpoint folder nor a model the hub gives: {told}"
        ) from error
    if tokenizer.chat_template is None:
        raise EvaluationError(f"checkpoint {label}: the tokenizer of {checkpoint!r} has no chat template")
    try:
        end: Any = GenerationConfig.from_pretrained(named).eos_token_id
    except (OSError, ValueError) as error:  # many checkpoints have none
        if (Path(named) / "generation_config.json").is_file():
            told = first_line(error)
            raise EvaluationError(f"checkpoint {label}: its generation_config.json cannot be read: {told}") from error
        end = config.get_text_config().eos_token_id
    if base is not None:
        check_fit(label, checkpoint, base, config)
    ends = tuple(sorted(end)) if isinstance(end, list) else (() if end is None else (end,))
    return Model(checkpoint, config, tokenizer, base, ends)


def _check_lengths(
    label: str, model: Model, problems: Mapping[str, Sequence[Problem]], arms: Mapping[str, Arm], style: PromptStyle
) -> None:
    context: int = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    new = max(arm.sampling.max_tokens for arm in arms.values())
    for benchmark, asked in problems.items():
        for problem in asked:
            length = _prompt_length(label, model, benchmark, problem, style)
            if context and length + new > context:
                room = f"allowed: max_tokens up to {context - length}" if length < context else "leave this problem out"
                raise EvaluationError(
                    f"checkpoint {label} reads at most {context} tokens, but the prompt of problem {problem.id!r} of "
                    f"{benchmark} has {length} and max_tokens asks for {new}; {room}"
                )


def _prompt_length(label: str, model: Model, benchmark: str, problem: Problem, style: PromptStyle) -> int:
    """Tokens of a problem's prompt; raises EvaluationError where the chat template refuses it, or writes none."""
    from jinja2 import TemplateError

    try:
        length = len(style.prompt_ids(model.tokenizer, problem.problem))
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise EvaluationError(
            f"checkpoint {label}: its chat template fails for problem {problem.id!r} of {benchmark}: "
            f"{first_line(error)} (system_prompt and chat_template_options are given to it)"
        ) from error
    if not length:
        raise EvaluationError(f"checkpoint {label}: its chat template writes nothing for problem {problem.id!r}")
    return length


def unread_options(models: Mapping[str, Model], style: PromptStyle) -> list[str]:
    """A remark for each option of `chat_template_options` that a checkpoint's chat template does not name."""
    remarks = []
    for label, model in models.items():
        given = style.template_options
        template = str(given.get("chat_template") or model.tokenizer.chat_template)
        unread = [key for key in given if key != "chat_template" and not re.search(rf"\b{re.escape(key)}\b", template)]
        remarks += [f"checkpoint {label}: its chat template does not read {key!r}" for key in unread]
    return remarks
