"""`led-rl benchmark`: ratios against hand computation, options, built-in shapes, and a real run."""

import json
import math
from dataclasses import replace

import pytest
from subprocesses import BIN, run_command

from led_rl.benchmarks.engine_benchmark import benchmark
from led_rl.benchmarks.engine_results import (
    STANDARD,
    Block,
    as_json,
    neighbour_ratios,
    order_of_round,
    summarise,
    table,
)
from led_rl.benchmarks.engine_settings import ARMS
from led_rl.benchmarks.ratios import spread
from led_rl.benchmarks.shapes import SHAPES, read_checkpoint, write_shape
from led_rl.commands.engine_benchmark import parse
from led_rl.decoding import UserError
from led_rl.engines.timed_blocks import Timing

PNG = b"\x89PNG\r\n\x1a\n"


def block(arm, number, place, ms, batch=4, peak=None, **statistics):
    """A block whose steps took `ms` milliseconds: 2 of prefill and 10 of decoding."""
    seconds = ms / 100
    return Block(arm, number, place, batch, seconds + 0.5, 2, seconds, 10, seconds / 10, statistics, peak)


def one_round(number, *milliseconds, arm="led_coin"):
    """standard, arm, standard, arm, ..."""
    return [block([STANDARD, arm][i % 2], number, i, ms) for i, ms in enumerate(milliseconds)]


def test_throughput_is_of_the_decode_steps():
    measured = block("led_coin", 0, 0, 20.0, batch=6)
    assert measured.ms_per_step == pytest.approx(20.0)
    assert measured.tokens_per_s == pytest.approx(6 / 0.020)
    assert measured.new_tokens == 12


def test_a_ratio_compares_a_block_with_its_standard_neighbours():
    blocks = [*one_round(0, 10.0, 12.5, 10.0), *one_round(1, 20.0, 30.0, 40.0)]
    assert neighbour_ratios(blocks, "led_coin") == pytest.approx([10 / 12.5, math.sqrt(20 * 40) / 30])


def test_a_steady_drift_cancels():
    drifting = [10.0 * 1.1**i * (1.25 if i % 2 else 1.0) for i in range(9)]  # LED takes 1.25 times as long
    assert neighbour_ratios(one_round(0, *drifting), "led_coin") == pytest.approx([0.8] * 4)


def test_blocks_are_compared_within_their_round():
    blocks = [*one_round(0, 10.0, 20.0), *one_round(1, 10.0, 20.0)]  # never a standard block after
    assert neighbour_ratios(blocks, "led_coin") == []
    backwards = list(reversed(one_round(0, 10.0, 20.0, 30.0)))
    assert neighbour_ratios(backwards, "led_coin") == pytest.approx([math.sqrt(300) / 20])


def test_standard_is_compared_with_itself_to_show_the_noise():
    blocks = one_round(0, 10.0, 99.0, 25.0, 99.0, 40.0)
    assert neighbour_ratios(blocks, STANDARD) == pytest.approx([20 / 25])


def test_the_spread_is_median_quartiles_and_an_interval_of_the_geometric_mean():
    found = spread([1.0, 0.8, 0.9, 0.7, 1.1])
    assert (found.median, *found.quartiles, found.n) == pytest.approx((0.9, 0.8, 1.0, 5))
    assert found.mean == pytest.approx((1.0 * 0.8 * 0.9 * 0.7 * 1.1) ** (1 / 5))
    assert found.interval[0] < found.mean < found.interval[1]
    assert spread([0.5]).interval is None
    assert spread([]) is None


def test_every_arm_lies_between_two_standard_blocks_and_changes_its_place():
    others = ["a", "b", "c"]
    rounds = [order_of_round(others, number) for number in range(4)]
    assert rounds[0] == [STANDARD, "a", STANDARD, "b", STANDARD, "c", STANDARD]
    assert [order[1] for order in rounds] == ["a", "b", "c", "a"]
    assert all(sorted(order[1::2]) == others and set(order[::2]) == {STANDARD} for order in rounds)


def test_a_summary_holds_medians_fractions_of_rows_and_added_memory():
    statistics = {"rows": 100.0, "explored": 10.0, "read": 20.0, "confidence": 80.0}
    more = {"rows": 300.0, "explored": 50.0, "read": 60.0, "confidence": 280.0}
    blocks = [
        block(STANDARD, 0, 0, 10.0, peak=1000),
        block("led_coin", 0, 1, 20.0, peak=1500, **statistics),
        block(STANDARD, 0, 2, 10.0, peak=1000),
        block("led_coin", 0, 3, 40.0, peak=1700, **more),
        block(STANDARD, 0, 4, 10.0, peak=1000),
    ]
    standard, led = summarise(blocks[1:] + blocks[:1])
    assert (standard.arm, standard.blocks, standard.explored) == (STANDARD, 3, None)
    assert (led.explored, led.read, led.confidence) == pytest.approx((60 / 400, 80 / 400, 360 / 400))
    assert led.ms_per_step == pytest.approx(30.0)
    assert led.added_peak_bytes == 600
    assert led.ratios.median == pytest.approx((0.5 + 0.25) / 2)
    assert "led_coin" in table([standard, led])
    assert "15.0%" in table([standard, led])
    json.dumps(as_json([standard, led]), allow_nan=False)
    alone = summarise([block(STANDARD, 0, 0, 10.0)])
    assert alone[0].ratios is None
    assert "standard" in table(alone)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_a_configuration_that_transformers_reads(name, tmp_path):
    written = write_shape(name, tmp_path, longest=4096)
    assert replace(read_checkpoint(str(tmp_path)), random_weights=True) == written
    assert written.vocab == SHAPES[name].config["vocab_size"]
    assert SHAPES[name].depth <= written.layers


def test_a_shape_takes_another_vocabulary(tmp_path):
    written = write_shape("quickstart", tmp_path, longest=64, vocab=32000)
    assert replace(read_checkpoint(str(tmp_path)), random_weights=True) == written
    assert written.vocab == parse(["--vocab", "32000"]).vocab == 32000
    assert SHAPES["quickstart"].config["vocab_size"] == 119


def test_the_quickstart_shape_is_the_toy_model(tmp_path):
    from transformers import AutoConfig

    from led_rl.toy.countdown import build_tokenizer
    from led_rl.toy.warmup import build_model

    write_shape("quickstart", tmp_path, longest=64)
    shape, toy = AutoConfig.from_pretrained(tmp_path), build_model(build_tokenizer(), seed=0).config
    for name in (*SHAPES["quickstart"].config, "model_type", "rms_norm_eps", "attention_bias", "rope_parameters"):
        assert getattr(shape, name) == getattr(toy, name), name


def test_the_qwen3_4b_shape_has_its_size(tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    write_shape("qwen3-4b", tmp_path, longest=4096)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(4.02e9, rel=0.01)


def test_defaults_follow_the_shape():
    quickstart, checkpoint = parse([]), parse(["--model", "some/model"])
    assert (quickstart.shape, quickstart.batches, quickstart.depth, quickstart.k) == ("quickstart", (128,), 4, 8)
    assert quickstart.explored_fraction == pytest.approx(0.16)
    assert parse(["--shape", "qwen3-4b"]).explored_fraction == pytest.approx(0.1)
    assert (checkpoint.shape, checkpoint.batches, checkpoint.depth) == (None, (64,), 8)
    assert checkpoint.explored_fraction is None
    assert parse(["--temperature", "0.6"]).explored_fraction is None
    assert parse(["--batch", "1,8,8", "--context", "16,512", "--new-tokens", "9"]).batches == (1, 8)
    assert parse(["--context", "16,512", "--new-tokens", "9"]).longest == 521


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--batch 1,0", "--batch"),
        ("--context x", "--context"),
        ("--new-tokens 3", "--new-tokens"),
        ("--shape huge", "--shape"),
        ("--shape quickstart --model some/model", "--shape"),
        ("--vocab 50 --model some/model", "--vocab"),
        ("--arms led_coin,led", "--arms"),
        ("--arms ,", "--arms"),
        ("--explored-fraction 1.5", "--explored-fraction"),
        ("--explored-fraction 0.1 --temperature 1", "--explored-fraction"),
        ("--explored-fraction 0.1 --arms led_marginal", "--explored-fraction"),
        ("--temperature 3", "--temperature"),
        ("--top-k -1", "--top-k"),
        ("--gpu-memory 0", "--gpu-memory"),
        ("--dtype int8", "--dtype"),
        ("--what", "--what"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(arguments, named):
    with pytest.raises(UserError, match=named) as refused:
        parse(arguments.split())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--depth", 9], "--depth 9 reads more layers than the model's 8"),
        (["--k", 120], "--k 120 is more than the model's vocabulary of 119"),
        (["--model", "nowhere/at-all"], "--model nowhere/at-all"),
    ],
)
def test_what_the_model_cannot_do_is_told_before_the_engine_starts(arguments, named, tmp_path):
    output = run_command(BIN / "led-rl", "benchmark", "--output", tmp_path, *arguments, status=2)
    last = output.splitlines()[-1]
    assert last.startswith("error: ")
    assert named in last


class ScriptedEngine:
    """Takes 10 ms a step for standard, 20 for the others; explores as often as it is hot; may be interrupted."""

    start_s = 1.5

    def __init__(self, interrupt_at=None):
        self.calls, self.interrupt_at = [], interrupt_at

    def added_bytes(self):
        return {"latent_states": 2048}

    def run(self, prompts, decoding, sampling, logprobs):
        self.calls.append((prompts, decoding, sampling))
        if len(self.calls) == self.interrupt_at:
            raise KeyboardInterrupt
        rows, steps = len(prompts) * sampling.max_tokens, sampling.max_tokens - 1
        seconds = (0.010 if decoding.is_standard else 0.020) * steps
        explores = sampling.temperature / 2
        statistics = {"rows": rows, "explored": rows * explores, "read": rows, "confidence": rows * (1 - explores)}
        return Timing(seconds + 1, 1, seconds, steps, 0.01, {} if decoding.is_standard else statistics, None)


def scripted(monkeypatch, tmp_path, *arguments, interrupt_at=None):
    engine = ScriptedEngine(interrupt_at)
    monkeypatch.setattr(
        "led_rl.benchmarks.engine_benchmark._engines", lambda settings, model: {STANDARD: engine, "plain": engine}
    )
    (tmp_path / "out").mkdir()
    report = benchmark(parse([*arguments, "--output", str(tmp_path / "out")]))
    return engine, report, json.loads((tmp_path / "out/benchmark.json").read_text(encoding="utf-8"))


def test_all_arms_get_the_same_prompts_and_the_temperature_that_explores_enough(monkeypatch, tmp_path, capsys):
    engine, report, written = scripted(
        monkeypatch, tmp_path, "--batch", "2,3", "--explored-fraction", "0.25", "--rounds", "3"
    )
    assert report.complete
    for cell in written["cells"]:
        assert cell["temperature"] == pytest.approx(0.5, rel=0.02)
        for arm in ARMS:
            assert cell["arms"][arm]["ratios"]["median"] == pytest.approx(0.5)
            assert cell["arms"][arm]["ratios"]["n"] == 3
    for size in (2, 3):
        prompts = [prompts for prompts, _, _ in engine.calls if len(prompts) == size]
        assert all(prompt == prompts[0] for prompt in prompts)
        assert all(len(prompt) == 32 and max(prompt) < 119 for prompt in prompts[0])
    assert all(decoding.is_standard or not decoding.think_only for _, decoding, _ in engine.calls)
    assert "0.500 [0.500, 0.500]" in capsys.readouterr().out


def test_an_interrupt_leaves_the_complete_rounds(monkeypatch, tmp_path, capsys):
    warm_up, a_round = 5, 9
    interrupt_at = warm_up + 2 * a_round + 4
    _, report, written = scripted(monkeypatch, tmp_path, "--temperature", "1", interrupt_at=interrupt_at)
    assert not report.complete
    assert written["complete"] is False
    assert {one["round"] for one in written["cells"][0]["blocks"]} == {0, 1}
    assert (tmp_path / "out/benchmark.png").read_bytes().startswith(PNG)
    assert "interrupted" in capsys.readouterr().err


def test_an_interrupt_before_the_first_round_leaves_no_cell(monkeypatch, tmp_path):
    _, _, written = scripted(monkeypatch, tmp_path, interrupt_at=2)
    assert written["cells"] == []


def test_a_real_run_writes_every_block_and_the_figure(tmp_path):
    output = run_command(BIN / "led-rl", "benchmark", "--smoke", "--with-plain", "--batch", "2,8", "--output", tmp_path)
    report = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    assert report["complete"] is True
    assert report["machine"]["cpu"]
    assert {"python", "torch", "led-rl"} <= set(report["versions"])
    assert report["engines"]["plain"]["added_bytes"] == {}
    assert all(engine["start_s"] > 0 for engine in report["engines"].values())
    # 3 latent layers of 8 rows of 96 floats, and 3 numbers a row of 8 bytes
    assert report["engines"]["standard"]["added_bytes"]["latent_states"] == 3 * 8 * 96 * 4 + 3 * 8 * 8
    assert [(cell["batch"], cell["context"]) for cell in report["cells"]] == [(2, 32), (8, 32)]
    for cell in report["cells"]:
        assert list(cell["arms"]) == [STANDARD, *ARMS, "plain"]
        assert len(cell["blocks"]) == report["settings"]["rounds"] * (2 * 5 + 1)
        for one in cell["blocks"]:
            assert one["prefill_steps"] + one["decode_steps"] == report["settings"]["new_tokens"]
            assert 0 < one["decode_s"] < one["wall_s"]
            ours = one["arm"] not in (STANDARD, "plain")
            assert one["statistics"].get("rows", 0) == (cell["batch"] * report["settings"]["new_tokens"] if ours else 0)
        for arm, summary in cell["arms"].items():
            assert summary["tokens_per_s"] > 0
            assert summary["ratios"]["n"] >= report["settings"]["rounds"]
            if arm.startswith("led"):
                assert 0 < summary["explored"] < 1
                assert summary["read"] == (1.0 if arm != "led_coin" else summary["explored"])
            assert f"\n{arm} " in output
    figure = (tmp_path / "benchmark.png").read_bytes()
    assert figure.startswith(PNG)
    assert len(figure) > 10_000
