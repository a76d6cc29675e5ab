"""A reward as a run needs it: told whether the model's chat template opens the think part.

Completions do not show a `<think>` that the template opened. A reward that did not know of it would take a text that
was cut off while thinking for an answer.
"""

from collections.abc import Sequence
from typing import Any

from led_rl.decoding import DecodingParams
from led_rl.thinking import MissingMarkersError
from rewards import RewardFunction, call_reward, load_reward

THINK_AWARE = ("math_answer", "choice_letter", "think_format")


def load_reward_for(tokenizer: Any, name: str, **options: Any) -> RewardFunction:
    """`rewards.load_reward` with `prefilled_think` as the tokenizer's chat template has it, unless it is given.

    Raises rewards.RewardError for an unknown name or option.
    """
    if name in THINK_AWARE:
        options = {"prefilled_think": template_opens_thinking(tokenizer), **options}
    return load_reward(name, **options)


def template_opens_thinking(tokenizer: Any) -> bool:
    """Whether a prompt of the tokenizer's chat template ends inside a think part."""
    try:
        markers = DecodingParams().markers(tokenizer)
    except MissingMarkersError:
        return False
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "?"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return markers.thinking_after(prompt, unmarked=False)


def try_rewards(rewards: Sequence[Any], row: dict[str, Any]) -> None:
    """Calls every reward with an empty completion of one dataset row, before weights are loaded.

    Raises rewards.RewardError that names the reward: it lacks a column, raises, or returns what is no reward.
    """
    from transformers import TrainerState

    columns = {name: [value] for name, value in row.items() if name not in ("prompt", "completion", "completion_ids")}
    for reward in rewards:
        call_reward(
            reward,
            completions=[[{"role": "assistant", "content": ""}]],
            row_names=["an empty completion of the dataset's row 1"],
            prompts=[row["prompt"]],
            completion_ids=[[]],
            trainer_state=TrainerState(),
            log_extra=lambda column, values: None,
            log_metric=lambda name, value: None,
            **columns,
        )
