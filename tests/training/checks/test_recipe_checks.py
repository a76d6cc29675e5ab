"""What a recipe names and the run cannot use is one line of train.py, before weights are loaded."""

import importlib.util
import json

import pytest
from conftest import save_tiny_model
from recipe_files import Built

from led_rl import train
from led_rl.training.checks.recipe import check_recipe
from led_rl.training.recipe import load_recipe


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"scale_rewards": "both"}, ["scale_rewards", "group, batch, none", "'both'"]),
        ({"loss_type": "ppo"}, ["loss_type", "dapo", "'ppo'"]),
        ({"importance_sampling_level": "word"}, ["importance_sampling_level", "token, sequence", "'word'"]),
        ({"multi_objective_aggregation": "max"}, ["multi_objective_aggregation", "sum_then_normalize", "'max'"]),
        ({"vllm_mode": "remote"}, ["vllm_mode", "colocate, server", "'remote'"]),
        ({"temperature": 0.0}, ["temperature must be more than 0", "no gradient"]),
        ({"temperature": -1.0}, ["temperature must be more than 0", "-1.0"]),
        ({"temperature": float("nan")}, ["temperature must be more than 0", "nan"]),
        ({"top_p": 1.5}, ["top_p must be more than 0 and at most 1", "1.5"]),
        ({"min_p": -0.1}, ["min_p must be at least 0", "-0.1"]),
        ({"max_completion_length": 0}, ["max_completion_length must be at least 1", "0"]),
        ({"lora_r": 0}, ["lora_r must be at least 1", "0"]),
        ({"lora_dropout": 1.5}, ["lora_dropout must be at least 0 and at most 1", "1.5"]),
        ({"learning_rate": -1e-6}, ["learning_rate must be at least 0", "-1e-06"]),
        ({"learning_rate": float("inf")}, ["learning_rate", "inf"]),
        ({"vllm_gpu_memory_utilization": 1.5}, ["vllm_gpu_memory_utilization", "at most 1", "1.5"]),
        ({"num_generations": 1}, ["num_generations", "1"]),
        ({"seed": -1}, ["seed must be at least 0", "-1"]),
        ({"seed": 2**40}, ["seed", "at most 4294967295"]),
        ({"data_seed": 3}, ["'data_seed'", "by `seed`"]),
        ({"generation_kwargs": {"seed": 42}}, ["generation_kwargs: 'seed'", "the same", "`seed`"]),
        ({"generation_kwargs": {"logprobs": 5}}, ["generation_kwargs: 'logprobs'", "another token's"]),
        ({"generation_kwargs": {"n": 4}}, ["generation_kwargs: 'n'", "num_generations"]),
        (
            {"generation_kwargs": {"repetition_penaltyy": 1}},
            ["unknown key 'repetition_penaltyy'", "repetition_penalty"],
        ),
        ({"generation_kwargs": {"frequency_penalty": 9}}, ["generation_kwargs", "frequency_penalty", "9"]),
        ({"generation_kwargs": {"extra_args": {"led_k": 4}}}, ["'led_k'", "override", "the keys of the config"]),
        ({"generation_kwargs": {"vllm_xargs": {"led": True}}}, ["'led'", "override"]),
        ({"eval_strategy": "steps", "eval_steps": 5}, ["eval_strategy", "without an eval_dataset"]),
        ({"per_device_train_batch_size": 64}, ["has 8 rows", "takes 16 prompts", "no step would be trained"]),
        ({"report_to": "clearml"}, ["report_to: clearml", "clearml"]),
        ({"watchdog_factor": -1}, ["watchdog_factor must be at least 0", "-1"]),
        ({"vllm_server_request_timeout": 0}, ["vllm_server_request_timeout must be more than 0"]),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "chat": "closed"},
            ["enable_thinking", "closes"],
        ),
    ],
)
def test_a_value_that_ends_a_run_later_is_refused_now(run_file, refused, tmp_path, changes, parts):
    if changes.pop("chat", None):
        changes["model_name_or_path"] = str(model_with_template(tmp_path / "closed"))
        changes["bf16"] = False
    message = refused([run_file(**changes)])
    assert "run.yaml" in message
    assert [part for part in parts if part not in message] == [], message


def model_with_template(path):
    """A model whose template closes the think part where enable_thinking is false, as Qwen3's does."""
    from transformers import AutoTokenizer

    save_tiny_model(path, layers=6)
    tokenizer = AutoTokenizer.from_pretrained(path)
    opened = "{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '<think>' }}"
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}" + opened
    tokenizer.save_pretrained(path)
    return path


def test_wandb_needs_a_login_unless_it_is_offline(run_file, refused, monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if wandb.api.api_key:
        pytest.skip("this machine is logged in")
    assert "nobody is logged in" in refused([run_file(report_to="wandb")])
    with pytest.raises(Built):
        train.main([run_file(report_to="wandb", wandb_mode="offline")])


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_tensorboard_that_is_not_installed_is_refused(run_file, refused):
    message = refused([run_file(report_to="tensorboard")])
    assert "run.yaml: report_to: tensorboard: " in message
    assert "requires tensorboard" in message


def write_rows(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


ROWS = [{"problem": f"{i}+1?", "answer": str(i + 1)} for i in range(8)]


def test_prompts_that_leave_no_room_are_refused_by_row_and_short_room_is_counted(run_file, refused, tmp_path, capsys):
    path = run_file(vllm_max_model_length=100, max_completion_length=64)
    write_rows(tmp_path, [*ROWS[:3], {"problem": "x" * 90, "answer": "1"}, *ROWS[4:]])
    message = refused([path])
    for part in ("1 of 8 prompts", "vllm_max_model_length (100) minus one token", "row 4 with"):
        assert part in message
    write_rows(tmp_path, [*ROWS[:3], {"problem": "x" * 40, "answer": "1"}, *ROWS[4:]])
    check_recipe(load_recipe([path]))
    assert "1 of 8 prompts leave completions less than max_completion_length (64)" in capsys.readouterr().out


def test_columns_that_trl_takes_for_something_else_are_left_out_and_said(run_file, refused, tmp_path, capsys):
    path = run_file()
    others = {"image": "a.png", "prompts": "p", "completions": "c", "log_extra": 1, "kept": 2}
    write_rows(tmp_path, [row | others for row in ROWS])
    columns = check_recipe(load_recipe([path])).dataset.column_names
    assert set(columns) == {"prompt", "problem", "answer", "kept"}
    assert "leaving out columns completions, image, log_extra, prompts" in capsys.readouterr().out
    write_rows(tmp_path, [{"prompts": "p", "answer": "1"}])
    assert "column 'prompts' cannot be used" in refused([run_file(problem_column="prompts")])


def test_messages_in_the_problem_column_are_the_prompt(run_file, refused, tmp_path):
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    path = run_file(prompt_template="Solve: {problem}", system_prompt="Be brief.")
    write_rows(tmp_path, [{"problem": [*turns, {"role": "user", "content": "2+2?"}], "answer": "4"}] * 8)
    prompt = check_recipe(load_recipe([path])).dataset[0]["prompt"]
    assert [message["role"] for message in prompt] == ["system", "user", "assistant", "user"]
    assert (prompt[0]["content"], prompt[-1]["content"]) == ("Be brief.", "Solve: 2+2?")
    for bad, reason in (
        ([], "must end"),
        (turns, "must end"),
        ([{"role": "user"}], "role and content"),
        ([7], "got 7"),
    ):
        write_rows(tmp_path, [*ROWS, {"problem": bad, "answer": "4"}])
        message = refused([path])
        assert "row 9: column 'problem'" in message
        assert reason in message


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ({"problem": "2+2?", "answer": "4", "level": "three"}, "level", "three"),
        ({"problem": "2+2?", "answer": "4", "level": 2**70}, "level", "1180591620717411303424"),
        ({"problem": "2+2?", "answer": "4", "level": {"a": 1}}, "level", "{'a': 1}"),
    ],
)
def test_a_cell_that_a_table_cannot_hold_is_named(run_file, refused, tmp_path, row, column, reason):
    write_rows(tmp_path, [])
    path = run_file()
    write_rows(tmp_path, [*(row | {"level": 1} for row in ROWS), row])
    message = refused([path])
    assert "row 9: column " in message
    assert reason in message
    assert column in message


def test_a_tokenizer_without_an_end_token(run_file, refused, tmp_path):
    model = save_tiny_model(tmp_path / "endless", layers=4)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if key not in ("eos_token", "pad_token")}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "no end-of-sequence token" in refused([run_file(model_name_or_path=str(model))])


def test_a_saved_adapter_is_no_model(run_file, refused, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    message = refused([run_file(model_name_or_path=str(tmp_path / "adapter"))])
    for part in ("is an adapter of 'some/base'", "Merge it first", "merge_and_unload"):
        assert part in message


@pytest.mark.parametrize("architecture", ["GptOssForCausalLM", "Cohere2ForCausalLM", "Glm4MoeForCausalLM"])
def test_an_architecture_without_led_is_refused_with_the_list(run_file, refused, tmp_path, models, architecture):
    import shutil

    model = shutil.copytree(models.thinks, tmp_path / "foreign")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
    message = refused([run_file(model_name_or_path=str(model))])
    for part in (architecture, "Qwen3ForCausalLM", "LlamaForCausalLM", "decoding: standard"):
        assert part in message
    sampled = {"decoding": "standard", "top_k": 5, "train_support": "sampled"}
    assert "train_support: vocabulary" in refused([run_file(model_name_or_path=str(model), **sampled)])
    with pytest.raises(Built):
        train.main([run_file(model_name_or_path=str(model), decoding="standard")])


def test_a_model_folder_beside_the_recipe_is_found(run_file, tmp_path, monkeypatch):
    save_tiny_model(tmp_path / "beside", layers=6)
    path = run_file(model_name_or_path="beside")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(Built):
        train.main([path])
