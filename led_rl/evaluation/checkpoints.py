"""What an evaluation needs of its checkpoints, checked before any weights are loaded.

One engine runs all checkpoints of an evaluation: it is built for the first one, and only its weights are replaced for
the others. A checkpoint that differs in anything but its weights would be evaluated wrongly, so it is refused here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from led_rl.decoding import DecodingError, check_decoding
from led_rl.evaluation.problems import Arm, Problem, prompt_ids, weights_of
from led_rl.evaluation.records import EvaluationError, flattened
from led_rl.thinking import MissingMarkersError

# Prompts reach the engine as token ids without padding, and weights are cast to the engine's type.
NO_INFLUENCE = frozenset(
    ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "pad_token_id", "bos_token_id")
)


def check_checkpoints(checkpoints: Mapping[str, str], problems: Sequence[Problem], arms: Mapping[str, Arm]) -> Any:
    """The tokenizer of all checkpoints, if one engine can run them all under every arm.

    Args:
        checkpoints: label -> folder or hub id.

    Raises:
        EvaluationError: names the checkpoint, what is wrong with it, and what is allowed.
    """
    first: tuple[str, Any, Any, list[list[int]]] | None = None
    for label, checkpoint in checkpoints.items():
        config, tokenizer = _read(label, checkpoint)
        prompts = [prompt_ids(tokenizer, problem.problem) for problem in problems]
        if first is None:
            first = label, config, tokenizer, prompts
        else:
            _same_but_for_weights(first, (label, config, tokenizer, prompts), problems)
        _check_arms(label, config, tokenizer, arms)
        _check_lengths(label, config, problems, prompts, arms)
    if first is None:
        raise EvaluationError("an evaluation needs at least one checkpoint")
    return first[2]


def _read(label: str, checkpoint: str) -> tuple[Any, Any]:
    """Configuration and tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    folder = Path(checkpoint)
    if not folder.is_dir() and (folder.exists() or checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1):
        raise EvaluationError(f"checkpoint {label}: folder {checkpoint!r} does not exist")
    if folder.is_dir() and not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise EvaluationError(
                f"checkpoint {label}: {checkpoint!r} is a LoRA adapter; merge it into its base model "
                "(peft: merge_and_unload, then save_pretrained) and name the merged folder"
            )
        inner = sorted(path.parent.name for path in folder.glob("checkpoint-*/config.json"))
        hint = f"; name one of {', '.join(inner)} in it" if inner else ""
        raise EvaluationError(f"checkpoint {label}: folder {checkpoint!r} holds no config.json{hint}")
    try:
        weights_of(checkpoint)
        config = AutoConfig.from_pretrained(checkpoint)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    except EvaluationError as error:
        raise EvaluationError(f"checkpoint {label}: {error}") from error
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"checkpoint {label}: {checkpoint!r} is neither a checkpoint folder nor a model the hub gives: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from error
    if tokenizer.chat_template is None:
        raise EvaluationError(f"checkpoint {label}: the tokenizer of {checkpoint!r} has no chat template")
    return config, tokenizer


def _same_but_for_weights(
    first: tuple[str, Any, Any, list[list[int]]],
    other: tuple[str, Any, Any, list[list[int]]],
    problems: Sequence[Problem],
) -> None:
    """Raises EvaluationError if the engine of `first` would run `other` wrongly."""
    (label_a, config_a, tokenizer_a, prompts_a), (label_b, config_b, tokenizer_b, prompts_b) = first, other
    one_engine = "one evaluation replaces weights only; give this checkpoint an evaluation with an --output of its own"
    a, b = flattened(config_a.to_dict()), flattened(config_b.to_dict())
    keys = [key for key in sorted(a.keys() | b.keys()) if key.rsplit(".", 1)[-1] not in NO_INFLUENCE]
    if changed := [key for key in keys if a.get(key) != b.get(key)]:
        listed = "; ".join(f"{key}: {b.get(key)!r}, not {a.get(key)!r}" for key in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise EvaluationError(
            f"checkpoint {label_b} has another configuration than {label_a} ({listed}{more}): {one_engine}"
        )
    if tokenizer_a.get_vocab() != tokenizer_b.get_vocab():
        raise EvaluationError(f"checkpoint {label_b} has another vocabulary than {label_a}: {one_engine}")
    for problem, prompt_a, prompt_b in zip(problems, prompts_a, prompts_b, strict=True):
        if prompt_a != prompt_b:
            raise EvaluationError(
                f"checkpoint {label_b} has another chat template or tokenizer than {label_a}: the prompt of problem "
                f"{problem.id!r} differs: {one_engine}"
            )


def _check_arms(label: str, config: Any, tokenizer: Any, arms: Mapping[str, Arm]) -> None:
    for name, arm in arms.items():
        try:
            check_decoding(arm.decoding, config, tokenizer)
        except (DecodingError, MissingMarkersError) as error:
            raise EvaluationError(f"checkpoint {label}, decoding {name}: {error}") from error


def _check_lengths(
    label: str, config: Any, problems: Sequence[Problem], prompts: Sequence[list[int]], arms: Mapping[str, Arm]
) -> None:
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not context:
        return
    new = max(arm.sampling.max_tokens for arm in arms.values())
    longest, problem = max(((len(prompt), problem.id) for prompt, problem in zip(prompts, problems, strict=True)))
    if longest + new > context:
        room = f"allowed: --max-tokens up to {context - longest}" if longest < context else "leave this problem out"
        raise EvaluationError(
            f"checkpoint {label} reads at most {context} tokens, but the prompt of problem {problem!r} has {longest} "
            f"and --max-tokens asks for {new}; {room}"
        )
