"""What a rollout logs, against sums done by hand."""

import pytest
import torch

from led_rl.decoding import DecodingParams
from led_rl.thinking import ThinkMarkers
from led_rl.training.rollout_metrics import (
    NoThoughtError,
    cut_short,
    ending_metrics,
    lengths_of,
    mask_cut,
    rollout_metrics,
)
from led_rl.training.turns import Turn, stopped

MARKERS = ThinkMarkers(1, 2)  # <think>, </think>


def test_tool_results_are_neither_thought_nor_generated():
    # thinks 2 tokens and the marker; a tool's answer of 2 tokens; 1 token of an answer
    prompts, completions = [[9, 1], [9]], [[5, 5, 2, 7, 7, 5], [5, 5]]
    mask = [[1, 1, 1, 0, 0, 1], [1, 1]]
    assert lengths_of(prompts, completions, mask, MARKERS, unmarked=False) == [2, 6, 3]
    assert lengths_of(prompts, completions, None, MARKERS, unmarked=True) == [2, 8, 5]
    metrics = rollout_metrics([2, 6, 3], None, DecodingParams(), has_markers=True)
    assert metrics == {"rollout/total_length": 3, "rollout/thinking_length": 1.5, "rollout/answer_length": 1.5}


def test_a_rollout_without_a_token_of_its_decoding_is_an_error():
    led = DecodingParams("led")
    sums = {"rows": 4.0, "read": 2.0, "explored": 1.0, "confidence": 3.0, "depth_0": 1.0, "depth_1": 1.0}
    metrics = rollout_metrics([2, 6, 3], sums, led, has_markers=True)
    assert metrics["led/explored_fraction"] == 0.25
    assert metrics["led/confidence"] == 0.75
    assert metrics["led/depth_1"] == 0.5
    assert metrics["led/read_fraction"] == 0.5
    for statistics, thought in ((sums | {"rows": 0.0}, 3), (None, 0)):
        with pytest.raises(NoThoughtError, match="no token of this rollout"):
            rollout_metrics([2, 6, thought], statistics, led, has_markers=True)


def test_what_stopped_by_itself_is_not_cut():
    # the first completion calls a tool and stops in its second turn; the second is cut by length; the third was
    # stopped, and cut afterwards
    prompts = [[1], [2], [3]]
    first = [Turn([1], [5, 6], stopped=True), Turn([2], [5, 6]), Turn([3], [5, 6, 7], stopped=True)]
    second = Turn([1, 5, 6, 9], [7], stopped=True)
    completions = [[5, 6, 9, 7], [5, 6], [5, 6]]
    ended = stopped([*first, second], prompts, completions)
    assert ended == [True, False, False]
    assert cut_short(completions, ended, ends=[0]) == [False, True, True]
    assert cut_short([[5, 0], [5], []], [False] * 3, ends=[0]) == [False, True, True]
    metrics = ending_metrics(torch.tensor([3, 2, 2]), torch.tensor([False, True, True]))
    assert metrics["completions/clipped_ratio"] == pytest.approx(2 / 3)
    assert metrics["completions/mean_terminated_length"] == 3
    assert ending_metrics(torch.tensor([3]), torch.tensor([True]))["completions/max_terminated_length"] == 0
    output = {"completion_mask": torch.ones(3, 4, dtype=torch.long), "tool_mask": torch.ones(3, 4)}
    mask_cut(output, torch.tensor([False, True, True]))
    assert output["completion_mask"].sum(-1).tolist() == [4, 0, 0]
    assert output["tool_mask"].sum(-1).tolist() == [4, 0, 0]
