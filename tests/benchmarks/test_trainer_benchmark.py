"""`led-rl benchmark-trainer`: ratios against hand computation, turns, what it refuses, and a real run."""

import json
import re
import threading
from types import SimpleNamespace

import pytest
from subprocesses import BIN, ROOT, run_command

from led_rl.benchmarks.trainer_results import (
    AGAIN,
    PARTS,
    STANDARD,
    TRL,
    Step,
    order_of_round,
    round_ratios,
    summarise,
    table,
)
from led_rl.commands.trainer_benchmark import main, parse
from led_rl.decoding import UserError

PNG = b"\x89PNG\r\n\x1a\n"
ARMS = (TRL, AGAIN, STANDARD, "led")


def step(arm, number, seconds, tokens=100, warm_up=False):
    return Step(arm, -1 if warm_up else number, 0, number, seconds, tokens, 0.0, {"rollout": seconds, "other": 0.0})


def test_a_ratio_compares_a_step_with_the_mean_of_trl_s_two_in_its_round():
    steps = [step(TRL, 0, 1.0), step(STANDARD, 0, 1.5), step(AGAIN, 0, 3.0)]
    steps += [step(TRL, 1, 2.0), step(STANDARD, 1, 2.0)]  # not complete
    assert round_ratios(steps, STANDARD) == pytest.approx([3**0.5 / 2])
    assert round_ratios(steps, TRL) == pytest.approx([1 / 3])


def test_a_ratio_per_token_forgives_longer_completions():
    steps = [step(TRL, 0, 1.0), step(STANDARD, 0, 2.0, tokens=200), step(AGAIN, 0, 1.0)]
    assert round_ratios(steps, STANDARD) == pytest.approx([2.0])
    assert round_ratios(steps, STANDARD, per_token=True) == pytest.approx([1.0])


def test_a_block_is_compared_whole():
    steps = [step(arm, 0, seconds) for arm in (TRL, AGAIN) for seconds in (1.0, 3.0)]
    steps += [step(STANDARD, 0, 2.0), step(STANDARD, 0, 4.0)]
    assert round_ratios(steps, STANDARD) == pytest.approx([1.5])


def test_warm_up_and_trl_s_twin_are_in_no_median():
    steps = [step(arm, n, 9.0 if n == 0 else 2.0, warm_up=n == 0) for n in range(3) for arm in (TRL, STANDARD, AGAIN)]
    trl, ours = summarise(steps)
    assert (trl.arm, ours.arm, trl.seconds, trl.steps, ours.time.n) == (TRL, STANDARD, 2.0, 2, 2)
    assert (trl.same_tokens, ours.same_tokens) == (None, 1.0)
    assert "1.000 [1.000, 1.000]" in table([trl, ours])
    assert summarise([]) == []
    assert table([])


@pytest.mark.parametrize("ours", [[STANDARD], [STANDARD, "led"]])
def test_a_linear_drift_cancels_over_the_rounds(ours):
    assert {tuple(sorted(order_of_round(ours, n))) for n in range(-1, 6)} == {tuple(sorted([TRL, AGAIN, *ours]))}
    places = [(order_of_round(ours, n).index(arm), arm) for n in range(4) for arm in (TRL, AGAIN, *ours)]
    for arm in (TRL, AGAIN, *ours):
        own = [place for place, name in places if name == arm]
        assert sum(own) / len(own) == (len(ours) + 1) / 2
    for n in range(8):
        order = order_of_round(ours, n)
        place = order.index(ours[n // 2 % len(ours)])
        assert {order[place - 1], order[place + 1]} == {TRL, AGAIN}


class ScriptedTrainer:
    """Calls its callbacks as transformers does, and notes when it is inside a step."""

    def __init__(self, name, journal, fail_at=None):
        self.name, self.journal, self.fail_at = name, journal, fail_at
        self.callback_handler = SimpleNamespace(callbacks=[])
        self.state = SimpleNamespace(global_step=0, log_history=[])
        self.args = SimpleNamespace(
            seed=7, steps_per_generation=1, num_iterations=1, generation_batch_size=8, gradient_accumulation_steps=1
        )
        self.vllm_generation = None

    def train(self):
        while True:
            for callback in self.callback_handler.callbacks:
                callback.on_step_begin(self.args, self.state, None)
            self.journal.append((self.name, self.state.global_step))
            if self.state.global_step == self.fail_at:
                raise ValueError("no memory")
            self.state.global_step += 1
            logs = {"step": self.state.global_step, "completions/mean_length": 2.5, "time/rollout": 0.0}
            self.state.log_history.append(logs)


def scripted(block, fail_at=None):
    from led_rl.benchmarks.trainer_turns import Turns, take_turns

    order = [(n, arm) for n in range(-1, 3) for arm in order_of_round([STANDARD, "led"], n)]
    turns, journal, saved = Turns(order), [], []
    trainers = {arm: ScriptedTrainer(arm, journal, fail_at if arm == "led" else None) for arm in ARMS}
    whole = take_turns(trainers, turns, block, lambda steps: saved.append(len(steps)))
    return order, turns.steps, journal, whole


@pytest.mark.parametrize("block", [1, 3])
def test_one_trainer_at_a_time_trains_in_its_turn(block):
    order, steps, journal, whole = scripted(block)
    expected = [arm for _, arm in order for _ in range(block)]
    assert whole
    assert [arm for arm, _ in journal] == expected
    assert [(one.arm, one.number) for one in steps] == journal
    assert [one.round for one in steps] == [n for n, _ in order for _ in range(block)]
    assert {one.tokens for one in steps} == {20}
    assert threading.active_count() == len([t for t in threading.enumerate() if t.name not in ARMS])


def test_a_trainer_that_fails_ends_them_all():
    with pytest.raises(ValueError, match="no memory"):
        scripted(1, fail_at=1)


@pytest.mark.parametrize("wrong", ["--steps 0", "--rounds x", "--steps"])
def test_a_wrong_option_is_one_line_that_names_it(wrong):
    with pytest.raises(UserError, match=wrong.split()[0]):
        parse(wrong.split())


def test_keys_of_the_recipe_pass_through():
    options = parse(["recipes/quickstart_led.yaml", "--rounds", "3", "--max_completion_length", "9", "--seed=4"])
    assert (str(options.recipe), options.rounds, options.steps) == ("recipes/quickstart_led.yaml", 3, 1)
    assert options.overrides == ("--max_completion_length", "9", "--seed=4")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere.yaml"], "nowhere.yaml"),
        (["--what", "3"], "'what'"),
        (["--vllm_mode", "server"], "--vllm_mode colocate"),
        (["--num_iterations", "2"], "--steps 1"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is_built(arguments, named, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    train = tmp_path / "train.jsonl"
    train.touch()
    recipe.write_text(
        (ROOT / "recipes/quickstart_standard.yaml").read_text().replace("runs/quickstart/base", str(tmp_path))
    )
    monkeypatch.setattr("led_rl.benchmarks.trainer_benchmark._build", lambda *_: pytest.fail("built"))
    given = arguments if arguments[0].endswith(".yaml") else [str(recipe), *arguments]
    with pytest.raises(UserError, match=re.escape(named)):
        main([*given, "--output", str(tmp_path / "out")])


def test_a_real_run_alternates_equal_steps_and_writes_them(tmp_path):
    output = run_command(
        *(BIN / "led-rl", "benchmark-trainer", "--smoke", "--decoding", "led", "--output", tmp_path), timeout=150
    )
    report = json.loads((tmp_path / "benchmark-trainer.json").read_text(encoding="utf-8"))
    steps, rounds = report["steps"], report["settings"]["rounds"]
    assert report["complete"] is True
    assert report["machine"]["cpu"]
    assert {"python", "torch", "led-rl"} <= set(report["versions"])
    assert set(report["wrapped_models"]) == set(ARMS)
    assert len(set(report["wrapped_models"].values())) == 1  # none is wrapped for several processes
    assert [one["arm"] for one in steps] == [
        arm for n in range(-1, rounds) for arm in order_of_round([STANDARD, "led"], n)
    ]
    for number in range(rounds + 1):
        drawn = {one["arm"]: (one["tokens"], one["reward"]) for one in steps if one["number"] == number}
        assert drawn[TRL] == drawn[AGAIN] == drawn[STANDARD]  # the same prompts and the same random numbers
        assert drawn["led"][0] > 0
    for one in steps:
        assert sum(one["split"].values()) == pytest.approx(one["seconds"])
        parts = {"rollout", "weight_sync", "other"} if one["arm"] in (TRL, AGAIN) else set(PARTS)
        assert set(one["split"]) == parts
        assert one["split"]["other"] >= 0
    assert list(report["arms"]) == [TRL, STANDARD, "led"]
    for arm, summary in report["arms"].items():
        assert summary["steps"] == summary["time"]["n"] == summary["time_per_token"]["n"] == rounds
        assert summary["seconds"] > 0
        assert f"\n{arm} " in output
    assert report["arms"][STANDARD]["same_tokens"] == 1.0
    figure = (tmp_path / "benchmark-trainer.png").read_bytes()
    assert figure.startswith(PNG)
    assert len(figure) > 10_000
