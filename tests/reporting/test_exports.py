"""Exports, read back by the readers that other people use."""

import importlib.util
import json

import pytest
from evaluation_folders import HOSTILE, write_folder

from led_rl.cli import main as run_cli
from led_rl.reporting.evaluation.folder import read_evaluation
from led_rl.reporting.evaluation.storable_text import storable

needs_inspect = pytest.mark.skipif(
    importlib.util.find_spec("inspect_ai") is None, reason="needs inspect_ai: pip install led-rl[inspect]"
)


@needs_inspect
def test_inspect_s_own_reader_opens_the_logs(tmp_path, capsys):
    from inspect_ai.log import list_eval_logs, read_eval_log

    folder = write_folder(tmp_path / "evaluation", benchmarks=("gsm8k", "math 500"))
    assert run_cli(["export", str(folder), "--to", "inspect", str(tmp_path / "logs")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert len(list_eval_logs(str(tmp_path / "logs"))) == 12
    log = read_eval_log(str(tmp_path / "logs" / "gsm8k_checkpoint-100_led.eval"))
    evaluation = read_evaluation(folder)
    group = next(group for group in evaluation.groups if group == ("gsm8k", "checkpoint-100", "led"))
    row = next(r for r in evaluation.rows["gsm8k"] if (r.checkpoint, r.arm) == ("checkpoint-100", "led"))
    assert log.status == "success"
    assert log.eval.config.epochs == 4
    assert log.eval.metadata["decoding"]["decoding"] == "led"
    assert log.results.scores[0].metrics["accuracy"].value == row.metrics["pass@1"].value
    assert len(log.samples) == 24
    rows = {(r["problem"], r["sample"]): r for r in map(json.loads, (folder / "completions.jsonl").open())
            if r["kind"] == "completion" and (r["benchmark"], r["checkpoint"], r["arm"]) == group}  # fmt: skip
    for sample in log.samples:
        place = (sample.id, sample.epoch - 1)
        verdict = evaluation.verdict(group, *place)
        assert sample.target == place[0].removeprefix("p")
        assert sample.output.completion == rows[place]["text"]
        assert (sample.output.stop_reason == "stop") == verdict.finished
        if verdict.correct is None:
            assert sample.scores == {}
        else:
            assert sample.scores["led_rl"].value == ("C" if verdict.correct else "I")
            assert sample.scores["led_rl"].answer == verdict.extracted


@needs_inspect
def test_hostile_texts_survive_inspect(tmp_path):
    from inspect_ai.log import read_eval_log

    folder = write_folder(tmp_path / "evaluation", hostile=True, checkpoints=("base",), arms=("led",))
    assert run_cli(["export", str(folder), "--to", "inspect", str(tmp_path / "logs")]) == 0
    log = read_eval_log(str(tmp_path / "logs" / "base_led.eval"))
    assert {sample.output.completion for sample in log.samples} == {storable(text) for text in HOSTILE}


def test_parquet_holds_every_completion_with_its_verdict(tmp_path):
    from datasets import Dataset

    folder = write_folder(tmp_path / "evaluation", hostile=True)
    target = tmp_path / "new" / "all.parquet"
    assert run_cli(["export", str(folder), "--to", "parquet", str(target)]) == 0
    dataset = Dataset.from_parquet(str(target), cache_dir=str(tmp_path / "cache"))
    evaluation = read_evaluation(folder)
    assert len(dataset) == len(evaluation.places) == 144
    for row, place in zip(dataset, evaluation.places, strict=True):
        verdict = evaluation.verdict(*place[:3])
        assert (row["checkpoint"], row["arm"], row["problem"], row["sample"]) == (
            place.group.checkpoint, place.group.arm, place.problem, place.sample,
        )  # fmt: skip
        assert row["text"] == storable(HOSTILE[(int(place.problem[1:]) + place.sample) % len(HOSTILE)])
        assert row["gold"] == place.problem.removeprefix("p")
        assert (row["correct"], row["reward"], row["finished"]) == (verdict.correct, verdict.reward, verdict.finished)
    assert json.loads(dataset[0]["statistics"])["confidence"] == 0.8


def test_a_second_export_is_not_the_first_one_s(tmp_path):
    from datasets import Dataset

    counts = []
    for problems in (2, 3):
        folder = write_folder(tmp_path / "evaluation", problems=problems, checkpoints=("base",), arms=("led",))
        run_cli(["export", str(folder), "--to", "parquet", str(tmp_path / "all.parquet")])
        cache = str(tmp_path / f"cache-{problems}")
        counts.append(len(Dataset.from_parquet(str(tmp_path / "all.parquet"), cache_dir=cache)))
    assert counts == [8, 12]


def test_only_lone_surrogates_are_replaced():
    assert storable("a\ud800b \U0001f600 \x00") == "a�b \U0001f600 \x00"
    assert storable(None) is None


@pytest.mark.parametrize(
    ("target", "message"),
    [("", "is a folder; name the Parquet file"), ("taken/x.parquet", "cannot be written: ")],
)
def test_a_target_that_cannot_be_written_is_one_line(tmp_path, capsys, target, message):
    folder = write_folder(tmp_path / "evaluation", problems=1, checkpoints=("base",), arms=("led",))
    (tmp_path / "taken").write_text("a file")
    assert run_cli(["export", str(folder), "--to", "parquet", str(tmp_path / target)]) == 2
    assert message in capsys.readouterr().err
