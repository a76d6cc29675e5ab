"""`train.py` from the command line: what it refuses, what it goes on with, and real runs, DeepSpeed included."""

import json
import sys

import pytest
from conftest import save_tiny_model
from recipe_files import Built
from safetensors.torch import load_file
from subprocesses import BIN, ROOT, run_command

from led_rl import train
from led_rl.training.checks.recipe import check_recipe
from led_rl.training.recipe import load_recipe

GSM8K = ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl"
pytestmark = pytest.mark.usefixtures("nothing_is_loaded")


def test_a_sound_recipe_passes_all_checks(run_file):
    with pytest.raises(Built):
        train.main([run_file()])
    with pytest.raises(Built):
        train.main([run_file(decoding="standard", led_depth=99)])


def test_a_recipe_error_is_one_line_with_exit_status_2(run_file, refused, tmp_path):
    path = run_file(led_detph=4)
    assert f"{path}: unknown key 'led_detph' (given 4); did you mean led_depth" in refused([path])
    assert str(tmp_path / "nowhere.yaml") in refused([str(tmp_path / "nowhere.yaml")])
    assert not (tmp_path / "out").exists()


def test_a_model_with_fewer_layers_than_led_depth(run_file, refused):
    message = refused([run_file(led_depth=7)])
    for part in ("led_depth=7", "the model has 6", "1 to 6"):
        assert part in message
    assert "led_latent_layers names [6]" in refused([run_file(led_latent_layers=[5, 6])])


def test_a_tokenizer_that_cannot_spell_the_think_markers(run_file, refused, models):
    foreign = {"model_name_or_path": models.cannot, "led_end_marker": "</考>"}
    message = refused([run_file(**foreign)])
    for part in ("decoding: 'led'", models.cannot, "'</考>'", "led_think_only: false"):
        assert part in message
    for harmless in ({"led_think_only": False}, {"decoding": "standard"}):
        with pytest.raises(Built):
            train.main([run_file(**foreign, **harmless)])
    with pytest.raises(Built):  # several tokens spell <think> and </think>
        train.main([run_file(model_name_or_path=models.cannot)])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("./nowhere", "does not exist"), ("nobody/no-such-model", "neither a checkpoint folder nor a model")],
)
def test_a_model_that_is_not_there(run_file, refused, name, reason):
    message = refused([run_file(model_name_or_path=name)])
    for part in ("run.yaml", "model_name_or_path", name, reason):
        assert part in message


def test_a_tokenizer_without_a_chat_template(run_file, refused, tmp_path):
    from transformers import AutoTokenizer

    bare = save_tiny_model(tmp_path / "bare", layers=2)
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.chat_template = None
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(bare)
    assert "no chat template" in refused([run_file(model_name_or_path=str(bare), led_depth=2)])


def test_a_dataset_that_is_not_there(run_file, refused):
    assert "'nowhere.jsonl' not found" in refused([run_file(dataset="nowhere.jsonl")])
    message = refused([run_file(dataset="nobody/no-such-dataset", dataset_config="main")])
    for part in ("run.yaml", "dataset", "'nobody/no-such-dataset'", "'main'", "cannot be loaded from the hub"):
        assert part in message


def test_a_dataset_that_cannot_be_read(run_file, refused, tmp_path):
    path = run_file()
    (tmp_path / "rows.jsonl").write_text('{"problem": "p", "answer": "1"}\n{"problem": ')
    message = refused([path])
    assert "run.yaml: dataset: " in message
    assert "rows.jsonl, line 2: not JSON" in message
    (tmp_path / "rows.jsonl").write_text('{"text": "p"}\n')
    assert "row 1: no column 'problem'; columns: text" in refused([path])
    (tmp_path / "rows.jsonl").write_text('{"problem": "p"}\n')
    assert "row 1: no column 'answer'; columns: problem" in refused([path])
    message = refused([run_file(answer_column=None)])
    for part in ("'math_answer'", "column 'answer'", "set answer_column"):
        assert part in message


def write_golds(tmp_path, golds):
    rows = [json.dumps({"problem": "p", "answer": gold}) for gold in golds]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))


def test_unusable_golds_are_refused_with_their_rows(run_file, refused, tmp_path):
    path = run_file()
    write_golds(tmp_path, ["1", " ", "2", "\\frac{1}{", "None"])
    message = refused([path])
    for part in ("3 of 5 golds", "row 2:", "row 4:", "row 5:", "bad_golds: drop"):
        assert part in message
    assert "row 1:" not in message


def test_unusable_golds_are_dropped_if_the_recipe_says_so(run_file, refused, tmp_path, capsys):
    path = run_file(bad_golds="drop")
    write_golds(tmp_path, ["1", " ", "2", "\\frac{1}{", "3"])
    checked = check_recipe(load_recipe([path]))
    assert checked.dataset["answer"] == ["1", "2", "3"]
    assert "dropping 2 of 5 rows" in capsys.readouterr().out
    write_golds(tmp_path, [" ", ""])
    assert "no row of" in refused([path])


def test_rows_without_the_answer_that_the_recipe_extracts(run_file, refused, tmp_path):
    golds = ["\\boxed{1}", "no box", "so $\\boxed 2$.", "\\boxed{"]
    # also where no reward reads the golds
    for rewards in ([{"name": "math_answer", "workers": 1}], [{"name": "think_format"}]):
        changes = {"answer_extraction": "last_box", "rewards": rewards}
        path = run_file(**changes)
        write_golds(tmp_path, golds)
        message = refused([path])
        assert "2 of 4 golds" in message
        assert "row 2: no answer (last_box) in column 'answer'; row 4: no answer" in message
        path = run_file(bad_golds="drop", **changes)
        write_golds(tmp_path, golds)
        assert check_recipe(load_recipe([path])).dataset["answer"] == ["1", "2"]


def test_rewards_that_do_not_exist(run_file, refused):
    message = refused([run_file(rewards=[{"name": "math_anwser"}])])
    for part in ("run.yaml: rewards:", "'math_anwser'", "math_answer", "package.module:function"):
        assert part in message
    message = refused([run_file(rewards=[{"name": "think_format", "bogus": 1}])])
    for part in ("run.yaml: rewards:", "'think_format'", "'bogus'"):
        assert part in message


def test_help_lists_the_keys(capsys):
    assert train.main(["--help"]) == 0
    assert "led_depth (int; default 8)" in capsys.readouterr().out
    assert train.main([]) == 2


def test_a_refusal_of_the_real_command_is_an_exit_status_without_a_traceback(run_file):
    output = run_command(sys.executable, "led_rl/train.py", run_file(), "--led_depth", "7", status=2)
    assert "error: " in output
    assert "led_depth=7" in output
    assert "Traceback" not in output


# Real runs, one at a time.

METRICS = (
    ["reward", "rewards/math_answer/mean", "rewards/think_format/mean", "loss", "grad_norm", "step_time"]
    + [f"rollout/{name}" for name in ("total_length", "thinking_length", "answer_length", "tokens_per_second")]
    + [f"time/{name}" for name in ("rollout", "reward", "weight_sync", "training")]
    + [f"led/{name}" for name in ("explored_fraction", "confidence", "entropy_mu", "entropy_final", "depth_3")]
    + ["sampling/importance_sampling_ratio/mean"]
)


def logged_steps(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "reward" in entry]


def test_two_steps_on_real_gsm8k_rows(models, tmp_path, capsys):
    if not GSM8K.is_file():
        pytest.skip(f"{GSM8K} is absent")
    out = tmp_path / "smoke"
    arguments = [str(ROOT / "recipes" / "gsm8k_smoke.yaml"), "--model_name_or_path", models.thinks]
    arguments += ["--dataset", str(GSM8K), "--output_dir", str(out)]
    run_command(BIN / "accelerate", "launch", "led_rl/train.py", *arguments)
    steps = logged_steps(out)
    assert [entry["step"] for entry in steps] == [1, 2]
    for entry in steps:
        assert [name for name in METRICS if entry.get(name) is None] == []
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "tokenizer.json"):
        assert (out / "checkpoint-2" / name).is_file()
    assert set(load_file(out / "model.safetensors")) == set(load_file(f"{models.thinks}/model.safetensors"))
    completions = list((out / "completions").glob("*.parquet"))
    assert len(completions) == 2

    capsys.readouterr()
    assert train.main(arguments) == 0  # again
    assert "nothing to do" in capsys.readouterr().out
    # as if it had been killed while it wrote a later checkpoint
    (out / "trainer_state.json").unlink()
    (out / "checkpoint-3").mkdir()
    with pytest.raises(Built):
        train.main([*arguments, "--max_steps", "4"])
    assert f"resuming from {out / 'checkpoint-2'}" in capsys.readouterr().out


@pytest.fixture
def math_rows(tmp_path):
    path = tmp_path / "math.jsonl"
    rows = [{"problem": f"What is {i} + {i}?", "solution": f"It is $\\boxed{{{2 * i}}}$."} for i in range(16)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("decoding", ["led", "standard"])
def test_the_paper_s_recipes_build_everything_up_to_training(decoding, tmp_path, math_rows):
    """On a tiny random model of the same architecture; what the machine lacks (GPUs, bfloat16, W&B) is overridden."""
    model = save_tiny_model(tmp_path / "model", layers=8, max_position_embeddings=32768)
    output = run_command(
        *[BIN / "accelerate", "launch", "led_rl/train.py", f"recipes/grpo_{decoding}.yaml", "--check_only", "true"],
        *["--model_name_or_path", model, "--dataset", math_rows, "--output_dir", tmp_path / "out"],
        *["--bf16", "false", "--dtype", "float32", "--ddp_backend", "gloo", "--vllm_enable_sleep_mode", "false"],
        *["--vllm_max_model_length", "2048", "--max_completion_length", "512", "--report_to", "none"],
    )
    assert f"recipes/grpo_{decoding}.yaml: sound" in output
