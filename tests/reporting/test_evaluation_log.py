"""An evaluation in W&B, offline and real, read back from the run's file; and in TensorBoard."""

import importlib.util
import json
import struct

import pytest
from evaluation_folders import write_folder

from led_rl.cli import main as run_cli
from led_rl.reporting.evaluation.folder import read_evaluation
from led_rl.reporting.evaluation.log import arm_curves, log_evaluation

BLOCK = 32768  # bytes of a block of a run's file, in the format of LevelDB's logs


def records_of(path):
    """The records of a .wandb file: fragments of 7-byte heads (checksum, length, kind) after a head of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    place, whole = 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last fragment
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("evaluation"), benchmarks=("gsm8k", "math500"))


def values(items):
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def test_every_arm_is_a_run_of_one_group_with_curves_over_checkpoints(folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert len(log_evaluation(folder, "test", "comparison")) == 3
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 3
    curves = arm_curves(read_evaluation(folder))
    seen = set()
    for path in files:
        records = list(records_of(path))
        run = next(record.run for record in records if record.HasField("run"))
        assert run.run_group == "comparison"
        arm = run.display_name.removeprefix("test ")
        seen.add(arm)
        config = {update.key: json.loads(update.value_json) for update in run.config.update}
        assert config["decoding"]["decoding"] == arm == config["arm"]
        assert set(config["checkpoints"]) == {"checkpoint-100", "checkpoint-200"}
        history = [values(record.history.item) for record in records if record.HasField("history")]
        logged = [entry for entry in history if "evaluation/gsm8k/pass@1" in entry]
        assert [entry["evaluation/step"] for entry in logged] == [100, 200]
        for entry in logged:
            expected = curves[arm][entry["evaluation/step"]]
            assert {name: entry[name] for name in expected} == pytest.approx(expected)
            assert "evaluation/gsm8k/pass@1" in expected
        for table in ("evaluation/results", "evaluation/samples"):
            assert any(name.startswith(table) for entry in history for name in entry)
        assert ("evaluation/gsm8k/pass@1 minus standard low" in logged[0]) == (arm == "led")
    assert seen == {"standard", "top_k_control", "led"}


def test_a_run_that_w_and_b_refuses_is_one_line(folder, monkeypatch, capsys, tmp_path):
    import wandb

    wandb.teardown()  # which forgets the mode of the runs before
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "no key")
    assert run_cli(["report", str(folder), "--output", str(tmp_path), "--report-to", "wandb"]) == 2
    error = capsys.readouterr().err
    assert "error: W&B: " in error
    assert "WANDB_MODE=offline" in error


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard: pip install tensorboard"
)
def test_tensorboard_gets_the_scalars(folder, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from led_rl.reporting.evaluation.log import write_tensorboard

    written = write_tensorboard(folder, tmp_path)
    assert [path.rsplit("/", 1)[1] for path in written] == ["standard", "top_k_control", "led"]
    events = EventAccumulator(written[2])
    events.Reload()
    expected = {
        step: scalars["evaluation/gsm8k/pass@1"] for step, scalars in arm_curves(read_evaluation(folder))["led"].items()
    }
    assert {e.step: e.value for e in events.Scalars("evaluation/gsm8k/pass@1")} == pytest.approx(expected)
