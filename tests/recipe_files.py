"""Fixtures for tests of train.py: a sound recipe to change, and what train.py says of it."""

import json
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
import yaml
from conftest import save_tiny_model

from led_rl import train
from led_rl.training import build

SHORT = {"save_steps": 2, "max_steps": 2, "max_completion_length": 16, "num_generations": 4}


class Built(Exception):
    """All checks have passed, and the weights would be loaded now."""


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    """Stops train.py where weights would be loaded, and keeps it offline."""

    def build_trainer(recipe, checked):
        raise Built

    monkeypatch.setattr(build, "build_trainer", build_trainer)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return SimpleNamespace(
        thinks=str(save_tiny_model(folder / "thinks", layers=6)),
        cannot=str(save_tiny_model(folder / "cannot", layers=6, think_tokens=False)),
    )


@pytest.fixture
def run_file(tmp_path, models, nothing_is_loaded):
    """`run_file(**changes)`: path of a recipe that is sound but for the changes, with eight rows of data."""
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"problem": f"{i}+1?", "answer": str(i + 1)}) for i in range(8)))

    def write(**changes):
        values = {
            "model_name_or_path": models.thinks,
            "dataset": str(data),
            "answer_column": "answer",
            "rewards": [{"name": "math_answer", "workers": 1}],
            "decoding": "led",
            "led_depth": 4,
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "bf16": False,
            "per_device_train_batch_size": 8,
            **SHORT,
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def refused(capsys):
    """`refused(arguments)`: the one line that train.py leaves on stderr, with exit status 2."""

    def run(arguments):
        capsys.readouterr()
        assert train.main(arguments) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        return errors[0].removeprefix("error: ")

    return run
