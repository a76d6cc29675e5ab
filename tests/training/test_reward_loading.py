"""Rewards know whether the chat template opened the think part, which completions do not show."""

import pytest
from conftest import character_tokenizer

from led_rl.training.progress import describe
from led_rl.training.reward_loading import load_reward_for, template_opens_thinking, try_rewards
from rewards import RewardError

CUT_OFF = [{"role": "assistant", "content": "I try \\boxed{4}, but no"}]
ANSWERED = [{"role": "assistant", "content": "I try \\boxed{5}</think>It is \\boxed{4}."}]


def plain_tokenizer():
    """The same tokenizer with a template that leaves thinking to the model."""
    tokenizer = character_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>", "")
    return tokenizer


def test_templates_that_open_thinking_are_recognised():
    assert template_opens_thinking(character_tokenizer())
    assert not template_opens_thinking(plain_tokenizer())
    assert not template_opens_thinking(character_tokenizer(think_tokens=False))


def test_a_text_cut_off_while_thinking_earns_nothing():
    reward = load_reward_for(character_tokenizer(), "math_answer")
    assert reward([CUT_OFF, ANSWERED], answer=["4", "4"]) == [0.0, 1.0]
    assert load_reward_for(plain_tokenizer(), "math_answer")([CUT_OFF], answer=["4"]) == [1.0]


def test_options_still_win_and_wrong_ones_are_refused():
    reward = load_reward_for(character_tokenizer(), "math_answer", prefilled_think=False)
    assert reward([CUT_OFF], answer=["4"]) == [1.0]
    with pytest.raises(RewardError, match="prefiled_think"):
        load_reward_for(character_tokenizer(), "math_answer", prefiled_think=True)


def test_rewards_are_tried_on_an_empty_completion():
    row = {"prompt": [{"role": "user", "content": "?"}], "answer": "4"}
    seen = {}

    def looks(completions, prompts, trainer_state, **columns):
        seen.update(columns, step=trainer_state.global_step, completions=completions)
        return [None]

    async def later(completions, **columns):
        return [0.0]

    try_rewards([looks, later, load_reward_for(character_tokenizer(), "math_answer", workers=1)], row)
    assert seen["answer"] == ["4"]
    assert seen["step"] == 0
    assert seen["completions"] == [[{"role": "assistant", "content": ""}]]
    with pytest.raises(RewardError, match="'needs' failed for an empty completion of the dataset's row 1: TypeError"):
        try_rewards([needs], row)
    with pytest.raises(RewardError, match="returned 2 values for 1 completions"):
        try_rewards([lambda completions, **columns: [1, 2]], row)


def needs(completions, target, **columns):
    return [1.0]


def test_progress_without_a_reward():
    assert describe(3, 9, {"reward": None}).startswith("step 3/9 | reward none")
