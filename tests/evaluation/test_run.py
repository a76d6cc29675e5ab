"""Evaluation on a scripted engine: resuming, settings, figures; and, end to end, on a tiny random Qwen3."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from led_rl.cli import main as run_cli
from led_rl.engines.engine import Completion
from led_rl.evaluation.arms import parse_arms
from led_rl.evaluation.estimates import pass_at_k
from led_rl.evaluation.grading import Grading, try_reward
from led_rl.evaluation.problems import Problem, weights_of
from led_rl.evaluation.records import read_records
from led_rl.evaluation.rows import EvaluationError
from led_rl.evaluation.run import Checkpoint, Plan, Task, evaluate
from led_rl.evaluation.summary import summarise, write_summary
from led_rl.thinking import ThinkMarkers

DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 12, "depth": 2, "k": 4}


def arms_of(*names, n=4, **changes):
    arms = parse_arms(names or ("standard", "top_k_control", "led"), DEFAULTS | changes)
    return {name: replace(arm, sampling=replace(arm.sampling, n=n)) for name, arm in arms.items()}


ARMS = arms_of()
PROBLEMS = [Problem(f"p{i}", f"say {i}", {"answer": str(i)}) for i in range(7)]
START, END = 1, 2


class CharacterTokenizer:
    """Token ids are code points; think markers 1 and 2 disappear like special tokens."""

    def apply_chat_template(self, conversation, add_generation_prompt, tokenize, return_dict):
        assert add_generation_prompt
        assert tokenize
        assert not return_dict
        return [ord(letter) for letter in conversation[0]["content"]]

    def batch_decode(self, sequences, skip_special_tokens):
        least = 3 if skip_special_tokens else 0
        return ["".join(chr(token) for token in sequence if token >= least) for sequence in sequences]


class ScriptedEngine:
    """Thinks 1 to 6 tokens, then answers the last digit or a wrong one; fixed by (weights, decoding, request's seed).

    Requests finish two at a time and not in order. `fail_at`, `kill_at`: the request at which it raises or dies.
    """

    markers = ThinkMarkers(START, END)
    capacity = 5

    def __init__(self, fail_at=None, kill_at=None):
        self.asked, self.fail_at, self.kill_at, self.weights, self.waiting = [], fail_at, kill_at, None, []

    def load_weights(self, checkpoint):
        self.weights = checkpoint

    def close(self):
        pass

    def add(self, index, request):
        if request.sampling.max_tokens > 8:  # not the warm-up
            self.asked.append((request.decoding.decoding, request.sampling.seed))
            if len(self.asked) == self.fail_at:
                raise KeyboardInterrupt
            if len(self.asked) == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        self.waiting.append((index, request))

    def step(self):
        finished = [self.waiting.pop() for _ in range(min(2, len(self.waiting)))]
        return [(index, self.completion(request)) for index, request in finished]

    def completion(self, request):
        decoding = request.decoding.decoding
        generator = np.random.default_rng([request.sampling.seed, len(decoding), *map(ord, str(self.weights)[-4:])])
        thought = int(generator.integers(1, 7))
        right = generator.random() < (0.7 if decoding == "led" else 0.4)
        tokens = [ord("t")] * thought + [END, request.prompt[-1] if right else ord("x")]
        explored = [True] + [False] * (thought + 1) if decoding == "led" else None
        thinking = [True] * (thought + 1) + [False]
        return Completion(tokens, [-1.0] * len(tokens), thinking, thought < 6, None, explored, 0.5)


def exact_reward(completions, answer, **columns):
    """1 or 0; None for the problem whose answer is 3."""
    assert len(columns["prompts"]) == len(completions) == len(columns["completion_ids"]) == len(columns["problem"])
    return [
        None if gold == "3" else float(message[0]["content"].endswith(gold))
        for message, gold in zip(completions, answer, strict=True)
    ]


def plan_of(checkpoints=None, problems=PROBLEMS, arms=ARMS, benchmarks=None, about=None, **changes):
    named = checkpoints or {"base": "hub/base"}
    return Plan(
        {label: Checkpoint(path, CharacterTokenizer(), {"weights": weights_of(path)}) for label, path in named.items()},
        {name: Task(asked, about or {}) for name, asked in (benchmarks or {"digits": problems}).items()},
        arms,
        **({"chunk_size": 2} | changes),
    )


def run(output, engine=None, reward=exact_reward, regrade=False, **changes):
    plan, engine = plan_of(**changes), engine or ScriptedEngine()

    def engine_of(label):
        running = engine() if callable(engine) else engine
        running.load_weights(plan.checkpoints[label].path)
        return running

    grading = Grading(reward, CharacterTokenizer())
    return evaluate(plan, engine_of, lambda label, task: grading, output, progress=False, regrade=regrade)


def untimed(records):
    """Records without their times, in an order of their own: resumed ones were written in another."""
    rows = [{key: value for key, value in record.items() if key != "wall_s"} for record in records]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def test_records_hold_every_sample_of_every_problem(tmp_path):
    records = run(tmp_path, checkpoints={"base": "hub/base", "led-trained": "hub/led1"})
    rows = [record for record in records if record["kind"] == "problem"]
    assert len(rows) == 2 * 3 * 7
    for row in rows:
        assert len(row["rewards"]) == len(row["thinking_tokens"]) == len(row["finished"]) == 4
        assert row["answer_tokens"] == [1] * 4
        kept = row["kept"][0]
        assert kept["thinking"].count("1") == row["thinking_tokens"][0]
        assert "".join(map(chr, row["prompt_ids"])) == f"say {row['problem'][1:]}"
        expected = [None] * 4 if row["problem"] == "p3" else [reward == 1.0 for reward in row["rewards"]]
        assert row["correct"] == expected
    chunks = [record for record in records if record["kind"] == "chunk"]
    assert len(chunks) == 2 * 3 * 4
    assert sum(chunk["tokens"] for chunk in chunks) == sum(
        sum(row["thinking_tokens"]) + sum(row["answer_tokens"]) for row in rows
    )
    assert all(chunk["wall_s"] > 0 for chunk in chunks)


def test_by_default_there_are_at_least_eight_chunks_to_time(tmp_path):
    many = [Problem(str(i), str(i), {"answer": str(i)}) for i in range(50)]
    records = run(tmp_path, problems=many, chunk_size=None, arms={"standard": ARMS["standard"]})
    assert [record["problems"] for record in records if record["kind"] == "chunk"] == [7] * 7 + [1]


def in_order(values):
    return list(dict.fromkeys(values))


def test_arms_rotate_and_every_sample_has_a_seed_of_its_own_shared_by_the_arms(tmp_path):
    engine = ScriptedEngine()
    run(tmp_path, engine)
    chunks = [engine.asked[i : i + 24] for i in range(0, 72, 24)]
    assert [in_order(arm for arm, _ in chunk) for chunk in chunks] == [
        ["standard", "top_k_control", "led"],
        ["top_k_control", "led", "standard"],
        ["led", "standard", "top_k_control"],
    ]
    by_arm = {name: [seed for arm, seed in engine.asked if arm == name] for name in ARMS}
    assert len(set(by_arm["led"])) == 7 * 4
    assert by_arm["led"] == by_arm["standard"] == by_arm["top_k_control"]


def test_further_seeds_add_samples(tmp_path):
    one, two = run(tmp_path / "one"), run(tmp_path / "two", seeds=(0, 1))
    rewards = [{(r["arm"], r["problem"]): r["rewards"] for r in rows if r["kind"] == "problem"} for rows in (one, two)]
    assert all(len(values) == 8 for values in rewards[1].values())
    assert all(rewards[1][key][:4] == values for key, values in rewards[0].items())


@pytest.mark.parametrize("schedule", ["blocks", "throughput"])
@pytest.mark.parametrize("fail_at", [1, 2, 8, 9, 45, 84])
def test_an_interrupted_run_goes_on_and_ends_like_an_uninterrupted_one(tmp_path, fail_at, schedule):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", ScriptedEngine(fail_at=fail_at), schedule=schedule)
    done = len(completions_of(tmp_path / "broken")) if fail_at > 5 else 0
    assert done >= fail_at - 1 - ScriptedEngine.capacity  # what was in flight is lost, no more
    engine = ScriptedEngine()
    resumed = run(tmp_path / "broken", engine, schedule=schedule)
    assert len(engine.asked) == 84 - done
    assert untimed(resumed) == untimed(whole)
    assert sorted_completions(tmp_path / "broken") == sorted_completions(tmp_path / "whole")
    times = [record["wall_s"] for record in resumed if record["kind"] == "chunk"]
    if schedule == "throughput":
        assert times == [None] * 12
    else:
        assert times.count(None) == (1 if done % 8 else 0)  # the block that was interrupted does not count


def sorted_completions(folder):
    return sorted(completions_of(folder), key=lambda row: json.dumps([row["arm"], row["problem"], row["sample"]]))


def test_a_killed_process_goes_on(tmp_path):
    whole = run(tmp_path / "whole")
    script = f"import sys; sys.path.append({os.path.dirname(__file__)!r}); import test_run as t; "
    script += f"t.run({str(tmp_path / 'killed')!r}, t.ScriptedEngine(kill_at=46))"
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = len(completions_of(tmp_path / "killed"))
    assert done >= 45 - ScriptedEngine.capacity
    engine = ScriptedEngine()
    assert untimed(run(tmp_path / "killed", engine)) == untimed(whole)
    assert len(engine.asked) == 84 - done
    assert sorted_completions(tmp_path / "killed") == sorted_completions(tmp_path / "whole")


@pytest.mark.parametrize("kilobytes", [1, 3, 9, 20])
def test_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path, kilobytes):
    whole = run(tmp_path / "whole")
    script = f"import resource, sys; sys.path.append({os.path.dirname(__file__)!r}); import test_run as t; "
    script += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({kilobytes} << 10,) * 2); t.run({str(tmp_path / 'full')!r})"
    full = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert full.returncode == 1
    last = full.stderr.splitlines()[-1]
    assert "cannot be written: File too large; what was generated before is kept: make room and start again" in last
    assert untimed(run(tmp_path / "full")) == untimed(whole)
    assert sorted_completions(tmp_path / "full") == sorted_completions(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 KiB, and a function that makes room on it."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(disk)]
        return shutil.which("mount") and subprocess.run(command, capture_output=True).returncode == 0

    if not mount("size=16k"):
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield disk, lambda: mount("remount", "size=4m")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_system_without_room_is_one_line_and_the_run_goes_on(small_disk, tmp_path):
    whole, (disk, make_room) = run(tmp_path / "whole"), small_disk
    for _ in range(3):  # a start without room loses nothing either
        with pytest.raises(EvaluationError, match="cannot be written: No space left on device; what was generated"):
            run(disk / "out")
    done = len(completions_of(disk / "out"))
    assert make_room()
    engine = ScriptedEngine()
    assert untimed(run(disk / "out", engine)) == untimed(whole)
    assert 0 < done == 84 - len(engine.asked)
    assert sorted_completions(disk / "out") == sorted_completions(tmp_path / "whole")


@pytest.mark.parametrize("left_of_last_line", [0, 1, 30])
@pytest.mark.parametrize("lines_lost", [1, 2, 3])
def test_a_half_written_block_is_dropped_with_a_warning(tmp_path, lines_lost, left_of_last_line):
    whole = run(tmp_path)
    cut(tmp_path / "records.jsonl", lines_lost, left_of_last_line)
    engine = ScriptedEngine()
    if lines_lost == 2 and not left_of_last_line:  # the last chunk holds one problem: cut exactly between two blocks
        resumed = run(tmp_path, engine)
    else:
        with pytest.warns(UserWarning, match=r"records\.jsonl: dropped .* bytes of a block that was not finished"):
            resumed = run(tmp_path, engine)
    assert untimed(resumed) == untimed(whole)
    assert engine.asked == []  # the completions are there: graded again, not generated
    run(tmp_path, engine)  # clean again: no warning, nothing to do


@pytest.mark.parametrize("left_of_last_line", [0, 1, 30])
@pytest.mark.parametrize("lines_lost", [1, 2, 4, 5, 6])
def test_completions_that_were_lost_are_generated_again(tmp_path, lines_lost, left_of_last_line):
    whole = run(tmp_path)
    completions = sorted_completions(tmp_path)
    cut(tmp_path / "records.jsonl", 4 if lines_lost == 6 else 2, 0)  # killed before the last block was graded
    cut(tmp_path / "completions.jsonl", lines_lost, left_of_last_line)
    engine = ScriptedEngine()
    if left_of_last_line:
        with pytest.warns(UserWarning, match=r"completions\.jsonl: dropped .* bytes of a completion that was cut off"):
            resumed = run(tmp_path, engine)
    else:
        resumed = run(tmp_path, engine)
    assert untimed(resumed) == untimed(whole)
    assert len(engine.asked) == {1: 0, 2: 1, 4: 3, 5: 4, 6: 4}[lines_lost]
    assert sorted_completions(tmp_path) == completions


def cut(path, lines_lost, left_of_last_line):
    lines = path.read_bytes().splitlines(keepends=True)
    kept, last = lines[:-lines_lost], lines[-lines_lost][:left_of_last_line]
    path.write_bytes(b"".join(kept) + last)


def test_damage_before_the_end_is_an_error(tmp_path):
    run(tmp_path)
    path = tmp_path / "records.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0][:20] + b"\n", *lines[1:]]))
    with pytest.raises(EvaluationError, match="line 1 is damaged"):
        run(tmp_path)


def test_a_finished_evaluation_builds_no_engine(tmp_path):
    first = run(tmp_path)
    assert run(tmp_path, lambda: pytest.fail("engine built for nothing")) == first
    built = []
    more = run(
        tmp_path, lambda: built.append(1) or ScriptedEngine(), checkpoints={"base": "hub/base", "new": "hub/new"}
    )
    assert built == [1]
    assert more[: len(first)] == first
    assert {record["checkpoint"] for record in more[len(first) :]} == {"new"}
    run(tmp_path, lambda: pytest.fail("engine built for nothing"))  # the first settings still fit


def test_arms_and_benchmarks_join_a_folder(tmp_path):
    run(tmp_path, arms=arms_of("standard"))
    other = [Problem("p0", "tell 5", {"answer": "5"})]
    engine = ScriptedEngine()
    records = run(tmp_path, engine, arms=arms_of("standard", "led"), benchmarks={"digits": PROBLEMS, "more": other})
    assert len(engine.asked) == 7 * 4 + 2 * 4
    blocks = {(r["benchmark"], r["arm"]) for r in records if r["kind"] == "problem"}
    assert blocks == {("digits", "standard"), ("digits", "led"), ("more", "standard"), ("more", "led")}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert set(manifest["benchmarks"]) == {"digits", "more"}
    assert set(manifest["arms"]) == {"standard", "led"}
    assert manifest["comparisons"] == [["led", "standard"]]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"arms": arms_of(temperature=0.5)}, "arms.led.sampling.temperature: recorded 1.0, now 0.5"),
        ({"arms": arms_of(depth=3)}, "arms.led.decoding.depth: recorded 2, now 3"),
        ({"arms": arms_of(n=3)}, "arms.led.sampling.n: recorded 4, now 3"),
        ({"problems": PROBLEMS[:-1]}, "benchmarks.digits.count: recorded 7, now 6"),
        ({"problems": [*PROBLEMS[:-1], replace(PROBLEMS[-1], columns={"answer": "9"})]}, "benchmarks.digits.sha256"),
        ({"chunk_size": 3}, "benchmarks.digits.chunk_size: recorded 2, now 3"),
        ({"seeds": (1,)}, "settings.seeds: recorded [0], now [1]"),
        ({"about": {"reward": "other"}}, "benchmarks.digits.reward: recorded 'nothing', now 'other'"),
        ({"checkpoints": {"base": "hub/other"}}, "checkpoints.base.weights: recorded 'hub/base', now 'hub/other'"),
    ],
)
def test_other_settings_are_an_error_that_names_the_key(tmp_path, changes, named):
    run(tmp_path)
    with pytest.raises(EvaluationError) as error:
        run(tmp_path, **changes)
    assert named in str(error.value)


def test_retrained_weights_at_the_same_path_are_noticed(tmp_path):
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    with pytest.raises(EvaluationError, match="holds no weights"):
        weights_of(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"first")
    run(tmp_path / "out", checkpoints={"base": str(checkpoint)})
    (checkpoint / "model.safetensors").write_bytes(b"later")
    with pytest.raises(EvaluationError, match=r"checkpoints\.base"):
        run(tmp_path / "out", checkpoints={"base": str(checkpoint)})


def test_two_evaluations_cannot_write_to_one_folder(tmp_path):
    class Nested(ScriptedEngine):
        def load_weights(self, checkpoint):
            with pytest.raises(EvaluationError, match="another evaluation"):
                run(tmp_path)
            super().load_weights(checkpoint)

    run(tmp_path, Nested())


def fails(completions, **columns):
    raise KeyError("a mistake in the reward")


def completions_of(folder):
    lines = map(json.loads, (folder / "completions.jsonl").read_text().splitlines())
    return [row for row in lines if row["kind"] == "completion"]


def test_every_completion_is_recorded_with_its_text(tmp_path):
    records = run(tmp_path)
    rows = completions_of(tmp_path)
    assert len(rows) == 3 * 7 * 4
    assert len({(row["arm"], row["problem"], row["sample"]) for row in rows}) == len(rows)
    for row in rows:
        assert row["prompt"] == f"say {row['problem'][1:]}"
        assert row["text"] == "".join(chr(token) for token in row["token_ids"] if token > 2)
        record = next(
            r for r in records if r["kind"] == "problem" and (r["arm"], r["problem"]) == (row["arm"], row["problem"])
        )
        assert row["thinking"].count("1") == record["thinking_tokens"][row["sample"]]
        assert row["finished"] == record["finished"][row["sample"]]
        assert row["explored"] == ("1" + "0" * (len(row["token_ids"]) - 1) if row["arm"] == "led" else "")
        assert row["wall_s"] == 0.5
        right = row["text"].endswith(row["problem"][1:])
        assert record["correct"][row["sample"]] is (None if row["problem"] == "p3" else right)


def test_what_was_generated_outlives_a_reward_that_fails(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(EvaluationError, match="reward 'fails' failed for problem 'p0': KeyError: 'a mistake in"):
        run(tmp_path / "failed", reward=fails)
    assert len(completions_of(tmp_path / "failed")) == 2 * 4
    engine = ScriptedEngine()
    mended = run(tmp_path / "failed", engine)
    assert len(engine.asked) == 84 - 8
    assert untimed(mended) == untimed(whole)


def test_regrading_generates_nothing(tmp_path):
    run(tmp_path / "first", reward=lambda completions, **columns: [0.5] * len(completions), about={"reward": "half"})
    with pytest.raises(EvaluationError, match=r"benchmarks\.digits\.reward: recorded 'half', now 'exact'"):
        run(tmp_path / "first", about={"reward": "exact"})
    again = run(
        tmp_path / "first",
        lambda: pytest.fail("engine built for nothing"),
        about={"reward": "exact"},
        problems=[*PROBLEMS[:-1], replace(PROBLEMS[-1], columns={"answer": "x"})],  # a gold was mended
        regrade=True,
    )
    expected = run(tmp_path / "second", problems=[*PROBLEMS[:-1], replace(PROBLEMS[-1], columns={"answer": "x"})])
    assert untimed(again) == untimed(expected)
    run(
        tmp_path / "first",
        lambda: pytest.fail("engine built for nothing"),
        about={"reward": "exact"},
        problems=[*PROBLEMS[:-1], replace(PROBLEMS[-1], columns={"answer": "x"})],
    )  # the manifest holds the new settings


def test_an_asynchronous_reward_is_awaited(tmp_path):
    async def later(completions, **columns):
        return exact_reward(completions, **columns)

    assert untimed(run(tmp_path / "later", reward=later)) == untimed(run(tmp_path / "now"))


def test_a_regrading_that_fails_changes_nothing(tmp_path):
    before = run(tmp_path)
    manifest = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(EvaluationError, match="reward 'fails' failed for problem 'p0': KeyError: 'a mistake in"):
        run(tmp_path, reward=fails, regrade=True, about={"reward": "other"})
    assert read_records(tmp_path) == before
    assert (tmp_path / "manifest.json").read_bytes() == manifest
    other_words = [replace(PROBLEMS[0], problem="tell 0"), *PROBLEMS[1:]]
    with pytest.raises(EvaluationError, match="problem 'p0' was asked in other words"):
        run(tmp_path, problems=other_words, regrade=True)
    with pytest.raises(EvaluationError, match=r"arms\.led\.decoding\.depth"):
        run(tmp_path, arms=arms_of(depth=3), regrade=True)
    (tmp_path / "completions.jsonl").unlink()
    with pytest.raises(EvaluationError, match=r"cannot be graded anew: completions\.jsonl lacks 12 of 12"):
        run(tmp_path, regrade=True)
    assert read_records(tmp_path) == before


def test_a_reward_of_the_wrong_length_and_nan_rewards(tmp_path):
    with pytest.raises(EvaluationError, match="returned 1 values for 8 completions"):
        run(tmp_path / "short", reward=lambda completions, **columns: [1.0])
    records = run(tmp_path / "nan", reward=lambda completions, **columns: [math.nan] * len(completions))
    assert records[0]["rewards"] == [None] * 4


def test_summary_equals_a_count_by_hand(tmp_path):
    records = run(tmp_path, problems=[Problem(f"p{i}", f"say {i % 10}", {"answer": str(i % 10)}) for i in range(40)])
    rows = summarise(records)
    assert [(row.checkpoint, row.arm) for row in rows] == [
        ("base", "standard"),
        ("base", "top_k_control"),
        ("base", "led"),
        ("base", "led − standard"),
        ("base", "led − top_k_control"),
    ]
    led, difference = rows[2], rows[3]
    mine = {arm: [r for r in records if r["kind"] == "problem" and r["arm"] == arm] for arm in ARMS}
    usable = {arm: [r for r in mine[arm] if r["rewards"][0] is not None] for arm in ARMS}
    solved = {arm: np.array([sum(r["correct"]) for r in usable[arm]]) for arm in ARMS}
    assert (led.problems, led.samples, led.unusable) == (40, 160, 16)
    assert "pass@8" not in led.metrics
    for k in (1, 2, 4):
        metric = led.metrics[f"pass@{k}"]
        assert metric.value == pytest.approx(pass_at_k(4, solved["led"], k).mean())
        assert metric.n == 36
        assert metric.low < metric.value < metric.high
    thinking = [np.mean(r["thinking_tokens"]) for r in mine["led"]]
    assert led.metrics["thinking_tokens"].value == pytest.approx(np.mean(thinking))
    assert led.metrics["total_tokens"].value == pytest.approx(np.mean(thinking) + 1)
    assert led.metrics["truncated"].value == pytest.approx(1 - np.mean([r["finished"] for r in mine["led"]]))
    chunks = [r for r in records if r["kind"] == "chunk" and r["arm"] == "led"]
    assert led.metrics["wall_s"].value == pytest.approx(sum(r["wall_s"] for r in chunks))
    assert led.metrics["wall_s"].n == 20
    speed = sum(r["tokens"] for r in chunks) / sum(r["wall_s"] for r in chunks)
    assert led.metrics["tokens_per_s"].value == pytest.approx(speed)
    assert difference.is_difference
    assert difference.problems == 40
    gain = (solved["led"] - solved["standard"]).mean() / 4
    assert difference.metrics["pass@1"].value == pytest.approx(gain)
    assert difference.metrics["pass@1"].n == 36
    assert difference.metrics["pass@1"].p_value < 0.05
    standard = rows[0]
    for name in ("tokens_per_s", "wall_s", "thinking_tokens"):
        assert difference.metrics[name].value == pytest.approx(led.metrics[name].value - standard.metrics[name].value)


def test_differences_use_what_both_sides_have(tmp_path):
    records = run(tmp_path, checkpoints={"a": "hub/aaaa", "b": "hub/bbbb"})
    part = [r for r in records if not (r["arm"] == "standard" and r["checkpoint"] == "a" and r["chunk"] > 1)]
    rows = {(r.checkpoint, r.arm): r for r in summarise(part, checkpoint_comparisons=[("b", "a")])}
    assert rows["a", "led − standard"].problems == 4
    assert rows["a", "led − standard"].metrics["wall_s"].n == 2
    assert rows["b", "led − standard"].problems == 7
    assert rows["b − a", "led"].problems == 7
    assert rows["b − a", "standard"].problems == 4
    for row in rows.values():
        assert all(metric.n <= row.problems for metric in row.metrics.values())


def test_summary_file_is_plain_json(tmp_path):
    rows = summarise(run(tmp_path, problems=PROBLEMS[3:4]))
    assert math.isnan(rows[0].metrics["pass@1"].value)
    loaded = json.loads(write_summary(tmp_path, rows).read_text())
    assert loaded[0]["metrics"]["pass@1"]["value"] is None
    assert loaded[0]["metrics"]["pass@1"]["n"] == 0


def test_a_failed_start_records_nothing(tmp_path):
    def no_engine():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        run(tmp_path, no_engine)
    assert run(tmp_path, chunk_size=3)  # other settings than those of the failed start


@pytest.mark.parametrize("value", [math.inf, -math.inf, "right", "1.0", [1.0]])
def test_what_is_no_reward_is_refused_with_its_problem(tmp_path, value):
    with pytest.raises(EvaluationError, match=r"for problem 'p0'; allowed: a finite number, or None"):
        run(tmp_path, reward=lambda completions, **columns: [value] * len(completions))


def test_a_reward_that_lacks_a_column_fails_before_the_first_token():
    grading = Grading(exact_reward, CharacterTokenizer())
    try_reward(grading, PROBLEMS)
    with pytest.raises(
        EvaluationError, match=r"'exact_reward' failed .*missing 1 required .*'answer'.*columns: .*gold"
    ):
        try_reward(grading, [Problem("p0", "say 1", {"gold": "1"})])


WORDS = ["<pad>", "<eos>", "<think>", "</think>", "user", "assistant", *map(str, range(10))]
TEMPLATE = "{% for m in messages %}{{ m.role + ' ' + m.content + ' ' }}{% endfor %}assistant <think>"


def tiny_checkpoint(folder, seed):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 8}
    config = Qwen3Config(
        vocab_size=len(WORDS), num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, max_position_embeddings=64, **shape,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def names_the_digit(completions, answer, **columns):
    return [float(gold in message[0]["content"]) for message, gold in zip(completions, answer, strict=True)]


def test_the_command_runs_end_to_end_on_a_tiny_model(tmp_path, capsys):
    models = [str(tiny_checkpoint(tmp_path / name, seed)) for seed, name in enumerate(("base", "trained"))]
    data = tmp_path / "digits.jsonl"
    data.write_text("".join(json.dumps({"problem": f"{i} 7", "answer": str(i)}) + "\n" for i in range(10)))
    command = ["--model", *models, "--data", str(data), "--reward", f"{__name__}:names_the_digit", "--n", "4"]
    command += ["--max-tokens", "10", "--depth", "2", "--k", "4", "--limit", "6", "--chunk", "3"]
    command += ["--engine", "transformers", "--output", str(tmp_path / "out")]
    assert run_cli(["evaluate", *command]) == 0
    printed = capsys.readouterr().out
    assert "led − standard" in printed
    assert "corrected (Holm) over the" in printed
    assert "no difference shown" in printed
    assert "Evaluation out" in (tmp_path / "out" / "report.html").read_text()
    records = read_records(tmp_path / "out")
    assert {(record["checkpoint"], record["arm"]) for record in records} == {
        (model, arm) for model in ("base", "trained") for arm in ARMS
    }
    kept = {r["checkpoint"]: r["kept"] for r in records if r["kind"] == "problem" and r["problem"] == "1"}
    assert kept["base"] != kept["trained"]  # load_weights took effect
    assert run_cli(["evaluate", *command]) == 0
    assert printed.endswith(capsys.readouterr().out)  # nothing ran again: the same wall times

    assert run_cli(["evaluate", *command, "--temperature", "0.7"]) == 2
    assert "arms.led.sampling.temperature: recorded 1.0, now 0.7" in capsys.readouterr().err
    for wrong, message in (
        (["--model", "x=1", "x=2"], "two checkpoints are called 'x'"),
        (["--report_to", "mlflow"], "report_to must be of wandb, tensorboard, none; got 'mlflow'"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl' does not exist"),
        (["--reward-options", "[]"], "key 'reward_options': dict[str, Any] expected, got []"),
        (["--depth", "9"], "led_depth=9"),
    ):
        assert run_cli(["evaluate", *command, *wrong, "--output", str(tmp_path / "other")]) == 2
        assert message in capsys.readouterr().err
