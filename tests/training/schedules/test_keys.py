"""The keys of schedules: what a config refuses, what a trainer cannot work with, and what an engine is built for."""

import re

import pytest
from datasets import Dataset

from led_rl.training.config import CheckError, LEDGRPOConfig
from led_rl.training.schedules.arguments import check_schedule_arguments
from led_rl.training.schedules.keys import largest_decoding, schedules_of, start_plan
from led_rl.training.schedules.plan import plan_at


def config(**values):
    return LEDGRPOConfig(output_dir="unused", use_cpu=True, bf16=False, per_device_train_batch_size=8, **values)


LED = {"decoding": "led"}
STANDARD = {"use_vllm": True}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"led_from_step": 3}, "led_from_step: 3 with decoding: 'standard' has no effect; set decoding: led"),
        ({"led_share": 0.5}, "led_share: 0.5 with decoding: 'standard' has no effect"),
        ({"led_k_schedule": {"steps": {1: 4}}}, "led_k_schedule"),
        (LED | {"led_from_step": -1}, "led_from_step must be at least 0; got -1"),
        (LED | {"led_from_step": 5, "led_to_step": 5}, "led_to_step must be more than led_from_step (5)"),
        (LED | {"led_share": 1.5}, "led_share must lie between 0 and 1; got [1.5]"),
        (LED | {"led_share_schedule": {"steps": {3: -0.5}}}, "led_share_schedule must lie between 0 and 1"),
        (
            LED | {"led_share": 0.05},
            "0.05 of num_generations: 8 is 0 completions, so that no group is mixed; allowed: 0.125 to 0.875, or 1",
        ),
        (LED | {"led_share": 0.99}, "is 8 completions"),
        (LED | {"led_depth_schedule": {"steps": {3: 0}}}, "led_depth_schedule: every value must be at least 1; got 0"),
        (LED | {"led_depth_schedule": {"steps": {3: 2.5}}}, "led_depth_schedule: the value of step 3 must be a whole"),
        (LED | {"led_depth_schedule": 4}, "led_depth_schedule must be {linear: {STEP: VALUE, ...}}"),
        (LED | {"led_depth_schedule": {"steps": {3: 2}}, "led_latent_layers": [5]}, "leave one of them out"),
        (
            {"decoding": "top_k_control", "led_depth_schedule": {"steps": {3: 2}}},
            "led_depth_schedule: decoding: 'top_k_control' reads no layers by led_depth",
        ),
        (LED | {"led_depth_schedule": {"steps": {3: 2, "3": 4}}}, "led_depth_schedule: step 3 stands twice"),
        (LED | {"led_from_step": "soon"}, "led_from_step"),
        (LED | {"led_share": None}, "led_share"),
        (LED | {"dynamic_sampling": True, "dynamic_sampling_max_rounds": 1.5}, "dynamic_sampling_max_rounds"),
        (LED | {"dynamic_sampling_max_rounds": 3}, "has no effect without dynamic_sampling: true"),
        (LED | {"temperature_schedule": {"steps": {3: 10**400}}}, "the value of step 3 must be a number"),
        (LED | {"watchdog_factor": "ten"}, "watchdog_factor"),
        (LED | {"led_k_schedule": {"linear": {3: 0}}}, "led_k_schedule: every value must be at least 1; got 0"),
        (STANDARD | {"temperature_schedule": {"linear": {3: 0}}}, "every value must be more than 0; got 0"),
        ({"use_vllm": False, "temperature_schedule": {"linear": {3: 0.5}}}, "schedule needs use_vllm: true"),
        (
            STANDARD | {"temperature_schedule": {"linear": {3: 1}}, "generation_kwargs": {"temperature": 0.5}},
            "a temperature in generation_kwargs; leave one of them out",
        ),
        ({"dynamic_sampling_max_rounds": 0}, "dynamic_sampling_max_rounds must be at least 1; got 0"),
        ({"dynamic_sampling_reward": "x"}, "no effect without dynamic_sampling: true"),
    ],
)  # fmt: skip
def test_a_config_refuses_what_cannot_be(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        config(**values)


def letters(completions, **_):
    return [0.0 for _ in completions]


ROWS = Dataset.from_dict({"prompt": ["a", "b"]})


@pytest.mark.parametrize(
    ("values", "given", "message"),
    [
        (LED | {"led_share": 0.5}, {"tools": [len]}, "led_share with tools"),
        (LED | {"led_share_schedule": {"linear": {9: 0}}}, {"rollout_func": len}, "led_share with rollout_func"),
        ({"dynamic_sampling": True}, {"environment_factory": len}, "dynamic_sampling with environment_factory"),
        ({"dynamic_sampling": True}, {"train_dataset": ROWS.to_iterable_dataset()}, "with an iterable dataset"),
        ({"dynamic_sampling": True}, {"train_dataset": ROWS.add_column("image", [1, 2])}, "a column 'image'"),
        (
            {"dynamic_sampling": True, "dynamic_sampling_reward": "answer"},
            {"reward_funcs": [letters, "org/judge"]},
            "dynamic_sampling_reward: 'answer' is none of the rewards; allowed: letters, judge",
        ),
    ],
)
def test_a_trainer_refuses_what_its_schedules_cannot_work_with(values, given, message):
    with pytest.raises(CheckError) as error:
        check_schedule_arguments(config(**values), given)
    assert message in str(error.value)


def test_what_works_is_not_refused():
    given = {"reward_funcs": letters, "train_dataset": ROWS}
    check_schedule_arguments(config(dynamic_sampling=True, dynamic_sampling_reward="letters"), given)
    check_schedule_arguments(config(**LED, led_from_step=2), {"tools": [len]})


def test_the_engine_is_built_for_the_largest_depth_and_k():
    args = config(**LED, led_depth_schedule={"steps": {10: 12, 20: 4}}, led_k_schedule={"linear": {10: 3}})
    assert (largest_decoding(args).depth, largest_decoding(args).k) == (12, 8)
    assert largest_decoding(config(**LED)) == config(**LED).decoding_params()


def test_a_config_s_plan_of_each_step():
    args = config(
        **LED, led_share=0.5, led_from_step=1, led_to_step=3, led_k_schedule={"steps": {2: 4}},
        temperature=1.0, temperature_schedule={"linear": {4: 0.6}},
    )  # fmt: skip
    plans = [plan_at(schedules_of(args), start_plan(args), step) for step in range(5)]
    assert [plan.explored for plan in plans] == [0, 4, 4, 0, 0]
    assert [plan.decoding.k for plan in plans] == [8, 8, 4, 4, 4]
    assert [plan.temperature for plan in plans] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])
    assert schedules_of(config(**LED)) == []
