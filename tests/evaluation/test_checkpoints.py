"""Checkpoints that cannot be evaluated are refused before any weights are loaded, each with one clear line."""

import json
import re
import shutil

import pytest
from conftest import save_tiny_model

from led_rl.cli import main as run_cli
from led_rl.evaluation.arms import parse_arms
from led_rl.evaluation.checkpoints import check_checkpoints, find_checkpoints, identity, unread_options
from led_rl.evaluation.problems import Problem, PromptStyle
from led_rl.evaluation.rows import EvaluationError

DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 100, "depth": 2, "k": 4}
ARMS = parse_arms(["standard", "top_k_control", "led"], DEFAULTS)
PROBLEMS = {"sums": [Problem("a", "1 + 1?"), Problem("b", "2 + 2, and nothing else?")]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"), layers=3)


@pytest.fixture
def other(base, tmp_path):
    return shutil.copytree(base, tmp_path / "other")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def check(base, other, arms=ARMS):
    return check_checkpoints({"base": str(base), "other": str(other)}, PROBLEMS, arms, PromptStyle())


def fits(base, other):
    models = check(base, other)
    return models["other"].fits_engine_of(models["base"])


def test_weights_alone_may_differ_in_one_engine(base, tmp_path):
    other = save_tiny_model(tmp_path / "other", layers=3, seed=1)
    edit(other / "config.json", transformers_version="4.0.0", use_cache=False, bos_token_id=3, dtype="bfloat16")
    assert fits(base, other)
    assert identity(check(base, other)["other"])["weights"] != identity(check(base, other)["base"])["weights"]


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 4},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rms_norm_eps": 1e-3},
        {"eos_token_id": 7},
    ],
)
def test_another_configuration_needs_an_engine_of_its_own(base, tmp_path, changes):
    assert not fits(base, save_tiny_model(tmp_path / "other", **({"layers": 3} | changes)))


def test_another_head_vocabulary_or_end_of_a_turn_needs_one_too(base, other):
    from transformers import AutoTokenizer

    assert fits(base, other)
    edit(other / "generation_config.json", eos_token_id=[2, 5])
    assert not fits(base, other)
    shutil.copy(base / "generation_config.json", other)
    edit(other / "config.json", tie_word_embeddings=True)
    assert not fits(base, other)
    shutil.copy(base / "config.json", other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(other)
    assert not fits(base, other)


def test_another_chat_template_changes_prompts_and_is_recorded(base, other):
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "teacher"))
    models = check(base, other)
    assert models["other"].fits_engine_of(models["base"])
    prompts = [PromptStyle().prompt_ids(model.tokenizer, "1?") for model in models.values()]
    assert prompts[0] != prompts[1]
    assert identity(models["base"])["chat_template"] != identity(models["other"])["chat_template"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "neither a checkpoint folder nor a model"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"), "names no base model"),
        (lambda folder: (folder / "config.json").unlink(), "holds neither config.json nor checkpoint-*"),
    ],
)
def test_a_folder_that_is_no_checkpoint(base, other, spoil, message):
    spoil(other)
    with pytest.raises(EvaluationError, match=f"^checkpoint other: .*{message.replace('*', '[*]')}"):
        check(base, other)


def test_an_adapter_without_its_base_is_one_line(base, other):
    (other / "config.json").unlink()
    (other / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "./nowhere/at/all"}))
    with pytest.raises(EvaluationError, match=r"LoRA adapter '.*other' needs its base model './nowhere/at/all', which"):
        check(base, other)


def test_an_adapter_is_merged_into_its_base(base, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    model.save_pretrained(tmp_path / "adapter")
    models = check(base, tmp_path / "adapter")
    assert models["other"].base == str(base)
    assert models["other"].fits_engine_of(models["base"])
    merged = models["other"].merged_into(tmp_path / "merged")
    tokens = torch.tensor([[5, 6, 7]])
    logits = AutoModelForCausalLM.from_pretrained(merged)(tokens).logits
    torch.testing.assert_close(logits, model.eval()(tokens).logits, rtol=1e-4, atol=1e-3)
    assert (logits - AutoModelForCausalLM.from_pretrained(base)(tokens).logits).abs().max() > 0.01
    assert models["base"].merged_into(tmp_path / "unused") == str(base)


def test_a_run_folder_is_all_of_its_checkpoints(base, tmp_path):
    run = tmp_path / "grpo"
    for step in (20, 100):
        shutil.copytree(base, run / f"checkpoint-{step}")
    steps = {f"x/checkpoint-{step}": str(run / f"checkpoint-{step}") for step in (20, 100)}
    assert find_checkpoints({"x": str(run)}) == steps
    assert list(find_checkpoints([str(run)])) == ["grpo/checkpoint-20", "grpo/checkpoint-100"]
    shutil.copy(base / "config.json", run)
    assert find_checkpoints([str(run)]) == {"grpo": str(run)}
    assert list(find_checkpoints([f"{run}/checkpoint-*"])) == ["grpo/checkpoint-20", "grpo/checkpoint-100"]
    with pytest.raises(EvaluationError, match="two checkpoints are called 'a'"):
        find_checkpoints(["a=x", "a=y"])
    assert find_checkpoints(["Qwen/Qwen3-4B"]) == {"Qwen3-4B": "Qwen/Qwen3-4B"}


def test_decodings_that_a_checkpoint_cannot_do(base, tmp_path):
    deep = parse_arms(["led depth 9"], DEFAULTS)
    with pytest.raises(EvaluationError, match=r"^checkpoint base, arm led depth 9: led_depth=9 .* the model has 3"):
        check_checkpoints({"base": str(base)}, PROBLEMS, deep, PromptStyle())
    unmarked = save_tiny_model(tmp_path / "unmarked", layers=3, think_tokens=False)
    check_checkpoints({"unmarked": str(unmarked)}, PROBLEMS, {"standard": ARMS["standard"]}, PromptStyle())
    # A tokenizer that spells the markers as text is enough; this one knows no such letters.
    arms = parse_arms([{"decoding": "led", "start_marker": "«", "end_marker": "»"}], DEFAULTS)
    with pytest.raises(EvaluationError, match=r"^checkpoint unmarked, arm led .*: "):
        check_checkpoints({"unmarked": str(unmarked)}, PROBLEMS, arms, PromptStyle())


def test_a_completion_that_would_not_fit_the_context(base):
    arms = parse_arms(["standard"], DEFAULTS | {"max_tokens": 2000})
    with pytest.raises(
        EvaluationError, match=r"at most 2048 tokens, but the prompt of problem 'b' of sums has \d+ .*max_tokens"
    ):
        check_checkpoints({"base": str(base)}, PROBLEMS, arms, PromptStyle("x"))


def test_mistakes_are_one_line_and_leave_no_folder(base, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text('{"problem": "1 + 1?", "answer": "2"}\n{"problem": "2 + 2?", "answer": "None"}\n')
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    output = tmp_path / "out"
    command = ["evaluate", "--model", f"base={base}", "--data", str(data), "--reward", "math_answer", "--depth", "2"]
    command += ["--max-tokens", "20", "--engine", "transformers", "--output", str(output)]
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"problem": "Zähle"}\n'.encode("latin-1"))
    for wrong, message in (
        (["--model", "typo=./nowhere"], "checkpoint typo: folder './nowhere' does not exist"),
        ([], "1 of 2 golds are unusable (2: 'None'"),
        (["--reward-options", '{"gold_column": "gold"}'], "reads the key 'gold', which no row has (keys: answer)"),
        (["--limit", "1", "--max-tokens", "5000"], "reads at most 2048 tokens"),
        (["--data", str(latin)], "latin.jsonl, line 1: not UTF-8"),
        (["--data", str(empty)], "empty.jsonl' has no rows"),
        (["--temperature", "-1"], "temperature: expected a number from 0 to 2, got -1.0"),
        (["--temperature", "nan"], "temperature: expected a number from 0 to 2, got nan"),
        (["--top-p", "0"], "top_p: expected a number above 0 and at most 1, got 0.0"),
        (["--min-p", "2"], "min_p: expected a number from 0 to 1, got 2.0"),
        (["--seed", "-1"], "seeds: expected integers from 0 to 2^63 - 1, got [-1]"),
        (["--n", "0"], "n: expected an integer >= 1, got 0"),
        (["--n", "many"], "key 'n': int expected, got 'many'"),
        (["--temprature", "1"], "unknown key 'temprature' (given 1); did you mean temperature"),
        (["--arms", "led", "beam"], "arm 'beam': led_decoding must be one of standard, led"),
        (["--arms", "led T"], "'T' has no value"),
        (["--arms", "standard depth 3"], "standard decoding has no depth"),
        (["--schedule", "fast"], "schedule must be one of blocks, throughput; got 'fast'"),
        (
            ["--benchmarks", "gsm9k"],
            "unknown benchmark 'gsm9k'; allowed: aime24, aime25, countdown, gpqa_diamond, gsm8k",
        ),
        (["--benchmarks", "gpqa_diamond"], "name your copy: --benchmarks gpqa_diamond=FILE.jsonl"),
        (["--reward", "no_such_reward"], "unknown reward 'no_such_reward'"),
        (["--model", f"={base}"], "a label and a path expected (LABEL=PATH), got '' and"),
        (["--model", str(data)], "data.jsonl' is a file, and a checkpoint is a folder"),
        (["--limit", "1", "--problem-column", "text"], "no problem under the key 'text'; keys: problem, answer"),
        (["--limit", "1", "--data-parallel", "999"], "data_parallel, tensor_parallel_size: 999 engine processes on"),
        (["--limit", "1", "--regrade"], "holds no completions to grade anew"),
    ):
        assert run_cli([*command, *wrong]) == 2, message
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1
        assert not output.exists() or wrong[-1] == "--regrade"


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: cut(f / "model.safetensors"), "model.safetensors is cut"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is cut"),
        (lambda f: (f / "config.json").write_text("[]"), "neither a checkpoint folder nor a model"),
        (
            lambda f: edit(f / "config.json", model_type="t5", architectures=["T5Model"]),
            "T5Model is no causal",
        ),
        (lambda f: (f / "generation_config.json").write_text("{"), "its generation_config.json cannot be read"),
        (lambda f: (f / "chat_template.jinja").write_text("{% for %}"), "its chat template fails for problem 'a' of"),
        (lambda f: (f / "chat_template.jinja").write_text("{{ raise_exception('no systems') }}"), "no systems"),
        (lambda f: (f / "chat_template.jinja").write_text("{# #}"), "its chat template writes nothing"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "names no base model"),
    ],
)
def test_a_broken_checkpoint_is_one_line(base, other, tmp_path, capsys, break_it, message):
    break_it(other)
    (tmp_path / "data.jsonl").write_text('{"id": "a", "problem": "1 + 1?", "answer": "2"}\n')
    command = ["evaluate", "--model", str(base), str(other), "--data", str(tmp_path / "data.jsonl"), "--depth", "2"]
    command += ["--reward", "math_answer", "--max-tokens", "9", "--engine", "transformers"]
    assert run_cli([*command, "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert "checkpoint other" in printed
    assert printed.count("\n") == 1


def test_options_that_a_template_does_not_read_are_remarked(base):
    models = check_checkpoints({"base": str(base)}, PROBLEMS, ARMS, PromptStyle())
    style = PromptStyle(None, {"enable_thinking": False, "messages": []})
    assert unread_options(models, style) == ["checkpoint base: its chat template does not read 'enable_thinking'"]


def test_golds_may_be_dropped_and_temperature_0_is_warned_about(base, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text('{"problem": "1 + 1?", "answer": "2"}\n{"problem": "2 + 2?", "answer": "None"}\n')
    command = ["evaluate", "--model", f"base={base}", "--data", str(data), "--reward", "math_answer", "--depth", "2"]
    command += ["--max-tokens", "4", "--n", "2", "--engine", "transformers", "--output", str(tmp_path / "out")]
    assert run_cli([*command, "--bad-golds", "drop", "--temperature", "0", "--decodings", "standard"]) == 0
    printed = capsys.readouterr()
    assert "1 of 2 golds are unusable (2: 'None'" in printed.err
    assert "at temperature 0 the 2 samples of a problem are equal" in printed.err
    assert "base: 1 problems" in printed.out
