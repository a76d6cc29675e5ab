"""Where the thinking tokens of an analysis come from: generated now, given as texts, or recorded by an evaluation."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from led_rl.data import PROBLEM_COLUMNS, read_jsonl
from led_rl.decoding import UserError
from led_rl.evaluation.completion_log import read_completions
from led_rl.evaluation.layers.analysis import Thought
from led_rl.thinking import MissingMarkersError, ThinkMarkers


class AnalysisError(UserError):
    """An analysis that cannot start: names the option or the row, what was wrong, and what is allowed."""


def thinking_mask_of(tokenizer: Any, all_tokens: bool) -> Callable[[Sequence[int], Sequence[int]], list[bool]]:
    """(prompt, completion) -> which completion tokens are read: the thinking ones, or all of them.

    Raises:
        AnalysisError: the tokenizer cannot spell the think markers.
    """
    if all_tokens:
        return lambda prompt, completion: [True] * len(completion)
    try:
        markers = ThinkMarkers.from_tokenizer(tokenizer)
    except MissingMarkersError as error:
        raise AnalysisError(f"{error}; --all-tokens reads every token of a completion") from error
    return lambda prompt, completion: markers.thinking_mask(prompt, completion)


def prompt_of(tokenizer: Any, problem: str) -> list[int]:
    """The chat prompt of a problem; the bare problem where the tokenizer has no chat template."""
    if tokenizer.chat_template is None:
        return list(tokenizer(problem)["input_ids"])
    message = [{"role": "user", "content": problem}]
    return list(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False))


def read_problems(
    path: Path, problem_column: str | None, completion_column: str | None, limit: int | None
) -> list[tuple[str, str, list[str]]]:
    """(id, problem, completions) of the rows; rows that repeat a problem are its further completions.

    Raises:
        DatasetError, AnalysisError: names the file, the line and the key.
    """
    found: dict[str, tuple[str, str, list[str]]] = {}
    for number, row in read_jsonl(path):
        column = problem_column or next((name for name in PROBLEM_COLUMNS if name in row), PROBLEM_COLUMNS[0])
        for key in filter(None, (column, completion_column)):
            if not isinstance(row.get(key), str):
                raise AnalysisError(f"{path}, line {number}: no text under the key {key!r}; keys: {', '.join(row)}")
        problem = row[column]
        if problem not in found:
            if limit is not None and len(found) >= limit:
                continue
            found[problem] = (str(row.get("id", number)), problem, [])
        if completion_column:
            found[problem][2].append(row[completion_column])
    return list(found.values())


def given_thoughts(
    tokenizer: Any, problems: Sequence[tuple[str, str, list[str]]], all_tokens: bool, longest: int
) -> list[Thought]:
    """Texts as tokens, each after its problem's prompt; a `<think>` that the prompt has opened need not be repeated."""
    mask_of = thinking_mask_of(tokenizer, all_tokens)
    thoughts = []
    for identity, problem, texts in problems:
        prompt = prompt_of(tokenizer, problem)
        for text in texts:
            completion = list(tokenizer(text, add_special_tokens=False)["input_ids"])[:longest]
            thoughts.append(Thought(identity, prompt, completion, mask_of(prompt, completion)))
    return thoughts


def recorded_thoughts(tokenizer: Any, folder: Path, arm: str | None, limit: int | None, longest: int) -> list[Thought]:
    """Completions of one arm of an evaluation; of its first checkpoint, as all checkpoints are read on the same ones.

    Raises:
        AnalysisError: the folder holds no completions, or none of the arm.
    """
    path = folder / "completions.jsonl"
    if not path.is_file():
        raise AnalysisError(
            f"--data {folder}: the folder holds no completions.jsonl; allowed: the --output of an evaluation"
        )
    arms: dict[str, None] = {}
    thoughts: list[Thought] = []
    problems: dict[str, None] = {}
    checkpoint = None
    for row in read_completions(folder):
        arms[row["arm"]] = None
        arm, checkpoint = arm or row["arm"], checkpoint or row["checkpoint"]
        if (row["arm"], row["checkpoint"]) != (arm, checkpoint):
            continue
        problem = json.dumps([row.get("benchmark"), row["problem"]])
        if problem not in problems and limit is not None and len(problems) >= limit:
            continue
        problems[problem] = None
        prompt = list(tokenizer(row["prompt"], add_special_tokens=False)["input_ids"])
        if not row.get("token_ids"):
            raise AnalysisError(f"--data {folder}: the evaluation recorded no token ids; allowed: one that keeps them")
        if (largest := max(row["token_ids"])) >= len(tokenizer):
            raise AnalysisError(
                f"--data {folder}: problem {row['problem']!r} holds token {largest}, and the model's tokenizer has "
                f"{len(tokenizer)}: another model wrote it"
            )
        flags = [[flag == "1" for flag in row.get(name) or ""] for name in ("thinking", "explored")]
        thoughts.append(Thought(problem, prompt, row["token_ids"][:longest], flags[0][:longest], flags[1] or None))
    if not thoughts:
        raise AnalysisError(f"--arm {arm}: no completion of it in {path}; arms: {', '.join(arms) or 'none'}")
    return thoughts


@torch.no_grad()
def generated_thoughts(
    model: Any,
    tokenizer: Any,
    problems: Sequence[tuple[str, str, list[str]]],
    *,
    n: int,
    temperature: float,
    max_tokens: int,
    seed: int,
    all_tokens: bool,
    done: Callable[[], object] = lambda: None,
) -> list[Thought]:
    """`n` completions of each problem, sampled by transformers from the final layer at `temperature`."""
    mask_of = thinking_mask_of(tokenizer, all_tokens)
    ends = model.generation_config.eos_token_id or tokenizer.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    torch.manual_seed(seed)
    thoughts = []
    for identity, problem, _ in problems:
        prompt = prompt_of(tokenizer, problem)
        ids = torch.tensor([prompt], device=model.device)
        sampled = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=n,
            max_new_tokens=max_tokens,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
        for row in sampled[:, len(prompt) :].tolist():
            end = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
            completion = row[: end + 1]
            thoughts.append(Thought(identity, prompt, completion, mask_of(prompt, completion)))
        done()
    return thoughts
