"""What a recipe names to evaluate on: rows, benchmarks, and what is refused before anything is loaded."""

import json
from types import SimpleNamespace

import pytest
import yaml
from conftest import save_tiny_model

from led_rl.decoding import UserError
from led_rl.train import add_benchmarks
from led_rl.training.checks.recipe import check_recipe
from led_rl.training.evaluation_rows import check_evaluation_rows
from led_rl.training.recipe import load_recipe


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, rows in (("train", 8), ("held_out", 5)):
        lines = [json.dumps({"problem": f"{i}+1?", "answer": str(i + 1)}) for i in range(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "long.jsonl").write_text(json.dumps({"problem": "9+1?".rjust(24), "answer": "10"}))
    (folder / "gsm8k.jsonl").write_text(json.dumps({"question": "1+1?", "answer": "So\n#### 2"}))
    model = str(save_tiny_model(folder / "model", layers=4))
    return SimpleNamespace(folder=folder, model=model)


def recipe(files, **changes):
    values = {
        "model_name_or_path": files.model, "dataset": str(files.folder / "train.jsonl"), "answer_column": "answer",
        "rewards": [{"name": "math_answer", "workers": 1}], "decoding": "led", "led_depth": 4, "use_cpu": True,
        "bf16": False, "per_device_train_batch_size": 8, "output_dir": str(files.folder / "out"),
    }  # fmt: skip
    path = files.folder / "run.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return load_recipe([str(path)])


def test_rows_are_prepared_as_the_training_rows_are(files):
    asked = recipe(
        files,
        eval_dataset=str(files.folder / "held_out.jsonl"),
        eval_rows=3,
        eval_strategy="steps",
        eval_steps=5,
        prompt_template="Solve {problem}",
    )
    assert asked.training.eval_decodings == ["standard", "led"]
    rows = check_recipe(asked).evaluation_rows
    assert len(rows) == 3
    assert rows[0]["prompt"] == [{"role": "user", "content": "Solve 0+1?"}]
    assert rows["answer"][:] == ["1", "2", "3"]


def test_benchmarks_bring_their_own_prompt_and_reward(files):
    asked = recipe(
        files,
        eval_benchmarks=[f"gsm8k={files.folder / 'gsm8k.jsonl'}"],
        eval_dataset=str(files.folder / "held_out.jsonl"),
        eval_on_start=True,
    )
    checked = check_recipe(asked)
    add_benchmarks(asked, checked)
    assert list(checked.evaluation_rows) == ["", "gsm8k"]
    assert "\\boxed{}" in checked.evaluation_rows["gsm8k"][0]["prompt"][0]["content"]
    assert checked.evaluation_rows["gsm8k"][0]["answer"] == "2"
    assert list(checked.evaluation_rewards) == ["gsm8k"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eval_strategy": "steps"}, "without an eval_dataset (in a recipe: or eval_benchmarks)"),
        ({"eval_dataset": "HELD_OUT"}, "eval_dataset without eval_strategy: set eval_strategy: steps"),
        ({"eval_benchmarks": ["gsm8k"]}, "eval_benchmarks without eval_strategy"),
        ({"eval_dataset": "nowhere.jsonl", "eval_strategy": "steps"}, "key 'eval_dataset': file 'nowhere.jsonl'"),
        ({"eval_benchmarks": ["gsm9k"], "eval_strategy": "steps"}, "unknown benchmark 'gsm9k'; allowed: aime24"),
        (
            {"decoding": "standard", "led_depth": 9, "eval_decodings": ["led"], "eval_on_start": True}
            | {"eval_dataset": "HELD_OUT"},
            "eval_decodings: led: led_depth=9 reads 9 layers, but the model has 4",
        ),
        (
            {"eval_dataset": "LONG", "eval_on_start": True, "vllm_max_model_length": 30},
            "eval_dataset, row 1: its prompt has 44 tokens, which leaves no room",
        ),
        ({"eval_decodings": ["led", "beam"], "eval_strategy": "steps"}, "eval_decodings must be of standard, led"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(files, changes, said):
    named = {"HELD_OUT": "held_out", "LONG": "long"}.get(changes.get("eval_dataset"))
    if named:
        changes = changes | {"eval_dataset": str(files.folder / f"{named}.jsonl")}

    def check():
        asked = recipe(files, **changes)
        checked = check_recipe(asked)
        add_benchmarks(asked, checked)
        check_evaluation_rows(asked, checked)

    with pytest.raises(UserError) as error:
        check()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
