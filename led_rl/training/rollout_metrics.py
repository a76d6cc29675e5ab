"""What is logged of a rollout: lengths, LED's statistics, and which completions were cut short."""

from collections.abc import Sequence
from typing import Any

import torch

from led_rl.decoding import DecodingParams, UserError
from led_rl.thinking import ThinkMarkers

NO_THOUGHT = (
    "decoding: {decoding!r}, but no token of this rollout was sampled with it: no prompt ends inside a think part and "
    "no completion opened one. Use a chat template that opens <think>, or led_think_only: false. A rollout_func must "
    "sample through trainer.vllm_generation.generate."
)


class NoThoughtError(UserError, RuntimeError):
    """A whole rollout was drawn without the decoding that the run asks for."""


def lengths_of(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    tool_mask: Sequence[Sequence[int]] | None,
    markers: ThinkMarkers | None,
    unmarked: bool,
) -> list[float]:
    """Number of completions, and how many tokens the model generated and thought in them.

    Args:
        tool_mask: for each completion token, 1 if the model generated it, 0 for tool results.
        unmarked: whether a prompt without markers starts in the think part.
    """
    total = thought = 0
    for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        generated = [1] * len(completion) if tool_mask is None else tool_mask[i]
        total += sum(generated)
        if markers is not None:
            thinking = markers.thinking_mask(prompt, completion, unmarked)
            thought += sum(mine and thinks for mine, thinks in zip(generated, thinking, strict=True))
    return [len(completions), total, thought]


def rollout_metrics(
    lengths: Sequence[float], statistics: dict[str, float] | None, decoding: DecodingParams, has_markers: bool
) -> dict[str, float]:
    """Metrics of one rollout from sums over all processes; means are over completions, turns of a tool loop together.

    Args:
        lengths: `lengths_of`, summed.
        statistics: `RequestDecoder.totals`, summed; None without LED.

    Raises:
        NoThoughtError: no token of the rollout was sampled with the decoding.
    """
    count, total, thought = lengths
    metrics = {"rollout/total_length": total / count}
    if has_markers:
        metrics["rollout/thinking_length"] = thought / count
        metrics["rollout/answer_length"] = (total - thought) / count
    if decoding.is_standard:
        return metrics
    unseen = not thought and decoding.think_only if statistics is None else not statistics["rows"]
    if unseen:
        raise NoThoughtError(NO_THOUGHT.format(decoding=decoding.decoding))
    if statistics is not None and decoding.decoding == "led":
        metrics |= led_metrics(statistics)
    return metrics


def led_metrics(sums: dict[str, float]) -> dict[str, float]:
    """`led/*` from `RequestDecoder.totals`: means over the rows drawn with LED, depths over those that read latents."""
    rows, read = sums["rows"], sums["read"]
    metrics = {}
    for name, total in sums.items():
        if name not in ("rows", "read", "cold_stops"):
            share = total / (max(read, 1.0) if name.startswith("depth_") else rows)
            metrics[f"led/{'explored_fraction' if name == 'explored' else name}"] = share
    return metrics | {"led/read_fraction": read / rows}


def cut_short(completions: Sequence[Sequence[int]], stopped: Sequence[bool], ends: Sequence[int]) -> list[bool]:
    """Whether each completion was cut by a limit of length: neither stopped nor with one of `ends` as its last token.

    TRL looks at the last token alone, and so counts completions that a stop string ended as cut.
    """
    return [not stop and (not ids or ids[-1] not in ends) for ids, stop in zip(completions, stopped, strict=True)]


def ending_metrics(lengths: torch.Tensor, cut: torch.Tensor) -> dict[str, float]:
    """TRL's metrics of completions that ended by themselves, from (completions,) lengths and whether each was cut."""
    ended = lengths[~cut].float()
    ended = ended if len(ended) else torch.zeros(1)
    return {
        "completions/clipped_ratio": cut.float().mean().item(),
        "completions/mean_terminated_length": ended.mean().item(),
        "completions/min_terminated_length": ended.min().item(),
        "completions/max_terminated_length": ended.max().item(),
    }


def mask_cut(output: dict[str, Any], cut: torch.Tensor) -> None:
    """Takes (completions,) cut completions out of the masks of a scored batch, as TRL's mask_truncated_completions."""
    for name in ("completion_mask", "tool_mask"):
        if name in output:
            output[name] = output[name] * (~cut)[:, None].to(output[name].dtype)
