"""Rewards of every form in a real training run of TRL's loop (transformers rollouts, a tiny random model)."""

import json
import math

import pytest
from conftest import save_tiny_model
from datasets import Dataset
from transformers import AutoTokenizer

from led_rl import LEDGRPOConfig, LEDGRPOTrainer
from led_rl.training.progress import StepProgress
from rewards import RewardError, load_reward


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model"), seed=2))


def trainer_of(model, folder, rewards, steps=2):
    args = LEDGRPOConfig(
        output_dir=str(folder),
        decoding="standard",
        use_vllm=False,
        use_cpu=True,
        bf16=False,
        max_steps=steps,
        logging_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        log_completions=True,
        report_to=[],
        save_strategy="no",
    )
    trainer = LEDGRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["a", "b", "c", "d"], "answer": ["1", "2", None, "4"]}),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
    )
    trainer.add_callback(StepProgress())
    return trainer


async def later(completions, **columns):
    return [float(len(text)) for text in completions]


def counting(completions, log_metric, log_extra, **columns):
    log_metric("counting/share", 0.5)
    log_extra("extracted", ["counted"] * len(completions))
    return [None if row == 0 else row / 10 for row in range(len(completions))]


def test_asynchronous_batched_and_built_in_rewards_together(model, tmp_path):
    rewards = [
        later,
        counting,
        load_reward("math_answer", workers=1),
        load_reward("think_format", prefilled_think=True),
    ]
    trainer = trainer_of(model, tmp_path, rewards)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert entry["counting/share"] == 0.5
        assert entry["rewards/later/mean"] >= 0
        assert entry["think_format/closed_think_part"] == 0.0  # a random model closes nothing
        assert "loss" in entry
    assert {"rewards/counting/mean", "rewards/math_answer/mean", "rewards/think_format/mean"} <= logged[0].keys()


def test_a_step_in_which_nothing_could_be_judged_is_logged(model, tmp_path, capfd):
    trainer = trainer_of(model, tmp_path, [lambda completions, **columns: [None] * len(completions)])
    trainer.train()
    assert "step 1/2 | reward none" in capfd.readouterr().err
    assert [entry["reward"] for entry in trainer.state.log_history if "reward" in entry] == [None, None]
    json.dumps(trainer.state.log_history, allow_nan=False)


def wrong_count(completions, **columns):
    return [1.0]


def infinite(completions, **columns):
    return [0.0, math.inf, 0.0, 0.0]


def replacing(completions, log_metric, **columns):
    log_metric("loss", 0.0)
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (wrong_count, "reward 'wrong_count' returned 1 values for 4 completions"),
        (infinite, "reward 'infinite' returned inf for row 2"),
        (replacing, "reward 'replacing' logs a metric 'loss'"),
    ],
)
def test_a_wrong_reward_is_one_error(model, tmp_path, reward, message):
    with pytest.raises(RewardError, match=message):
        trainer_of(model, tmp_path, [later, reward]).train()
