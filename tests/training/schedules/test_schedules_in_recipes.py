"""Schedules in recipes: read from file and command line, refused in one line before anything is loaded."""

import re

import pytest
import yaml
from recipe_files import Built
from subprocesses import ROOT

from led_rl import train
from led_rl.training.recipe import load_recipe
from led_rl.training.schedules.keys import schedules_of, start_plan
from led_rl.training.schedules.plan import plan_at


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"led_depth_schedule": {"steps": {10: 7}}}, ["led_depth=7 reads 7 layers, but the model has 6"]),
        ({"led_depth_schedule": {"steps": {10: 0}}}, ["led_depth_schedule", "at least 1", "got 0"]),
        ({"led_k_schedule": {"cosine": {10: 4}}}, ["led_k_schedule", "{linear: {STEP: VALUE, ...}}", "cosine"]),
        ({"led_k_schedule": 4}, ["led_k_schedule", "got 4"]),
        ({"led_share": 0.1}, ["led_share: 0.1 of num_generations: 4 is 0 completions", "0.25 to 0.75, or 1"]),
        ({"temperature_schedule": {"linear": {10: 0}}}, ["temperature_schedule", "more than 0"]),
        (
            {"dynamic_sampling": True, "dynamic_sampling_reward": "answer"},
            ["dynamic_sampling_reward: 'answer' is none of the rewards; allowed: math_answer"],
        ),
        (
            {"dynamic_sampling": True, "num_generations": 2, "per_device_train_batch_size": 16},
            ["dynamic_sampling: the dataset has 8 rows, and a batch takes 8 prompts: none is left", "a smaller batch"],
        ),
        ({"led_from_stop": 3}, ["unknown key 'led_from_stop'", "led_from_step"]),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_loaded(run_file, refused, changes, parts):
    message = refused([run_file(**changes)])
    assert "run.yaml" in message
    assert [part for part in parts if part not in message] == [], message


def test_what_can_be_passes_all_checks(run_file):
    changes = {
        "dynamic_sampling": True,
        "dynamic_sampling_reward": "math_answer",
        "led_share": 0.5,
        "led_depth_schedule": {"steps": {10: 6}},
    }
    with pytest.raises(Built):
        train.main([run_file(**changes), "--temperature_schedule", "{linear: {200: 0.8}}", "--led_to_step", "50"])


def test_the_documented_schedules_are_what_their_comments_say(run_file):
    text = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
    keys = yaml.safe_load(re.search(r"```yaml\n(decoding.*?)```", text, re.DOTALL).group(1))
    args = load_recipe([run_file(**keys, num_generations=8)]).training
    plans = {step: plan_at(schedules_of(args), start_plan(args), step) for step in (0, 20, 100, 200, 300)}
    assert [plan.temperature for plan in plans.values()] == pytest.approx([1.2, 1.16, 1.0, 0.8, 0.8])
    assert [plan.decoding.k for plan in plans.values()] == [16, 16, 8, 4, 4]
    assert [plan.explored for plan in plans.values()] == [0, 4, 4, 4, 4]
