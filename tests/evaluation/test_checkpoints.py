"""Checkpoints that one engine cannot run are refused before any weights are loaded, each with one clear line."""

import json
import shutil

import pytest
from conftest import save_tiny_model

from led_rl.cli import main as run_cli
from led_rl.engines.engine import Sampling
from led_rl.evaluation.checkpoints import check_checkpoints
from led_rl.evaluation.problems import Problem, comparison_arms
from led_rl.evaluation.records import EvaluationError

ARMS = comparison_arms(["standard", "top_k_control", "led"], Sampling(max_tokens=100), depth=2, k=4)
PROBLEMS = [Problem("a", "1 + 1?"), Problem("b", "2 + 2, and nothing else?")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("base"), layers=3)


@pytest.fixture
def other(base, tmp_path):
    return shutil.copytree(base, tmp_path / "other")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def check(base, other, arms=ARMS):
    return check_checkpoints({"base": str(base), "other": str(other)}, PROBLEMS, arms)


def test_weights_alone_may_differ(base, tmp_path):
    other = save_tiny_model(tmp_path / "other", layers=3, seed=1)
    edit(other / "config.json", transformers_version="4.0.0", use_cache=False, bos_token_id=3, dtype="bfloat16")
    assert check(base, other).chat_template


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layers": 4}, "num_hidden_layers: 4, not 3"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta: 500000.0, not"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps: 0.001, not 1e-06"),
        ({"eos_token_id": 7}, "eos_token_id: 7, not 2"),
    ],
)
def test_another_configuration_is_refused(base, tmp_path, changes, named):
    other = save_tiny_model(tmp_path / "other", **({"layers": 3} | changes))
    with pytest.raises(EvaluationError, match="checkpoint other has another configuration than base") as error:
        check(base, other)
    assert named in str(error.value)


def test_an_untied_head_is_refused(base, other):
    edit(other / "config.json", tie_word_embeddings=True)
    with pytest.raises(EvaluationError, match="tie_word_embeddings: True, not False"):
        check(base, other)


def test_another_chat_template_is_refused_if_it_changes_a_prompt(base, other):
    template = other / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text + "{# a remark #}")
    check(base, other)
    template.write_text(text.replace("assistant", "teacher"))
    with pytest.raises(
        EvaluationError, match="another chat template or tokenizer than base: the prompt of problem 'a'"
    ):
        check(base, other)


def test_another_vocabulary_is_refused(base, other):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(EvaluationError, match="another vocabulary than base"):
        check(base, other)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "neither a checkpoint folder nor a model"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"), "is a LoRA adapter; merge"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    ],
)
def test_a_folder_that_is_no_checkpoint(base, other, spoil, message):
    spoil(other)
    with pytest.raises(EvaluationError, match=f"^checkpoint other: .*{message}"):
        check(base, other)


def test_a_run_folder_names_its_checkpoints(base, tmp_path):
    for step in (10, 20):
        shutil.copytree(base, tmp_path / f"checkpoint-{step}")
    with pytest.raises(EvaluationError, match="name one of checkpoint-10, checkpoint-20 in it"):
        check(base, tmp_path)


def test_decodings_that_a_checkpoint_cannot_do(base, tmp_path):
    deep = comparison_arms(["led"], Sampling(), depth=9)
    with pytest.raises(EvaluationError, match=r"^checkpoint base, decoding led: led_depth=9 .* the model has 3"):
        check_checkpoints({"base": str(base)}, PROBLEMS, deep)
    unmarked = save_tiny_model(tmp_path / "unmarked", layers=3, think_tokens=False)
    only_standard = {"standard": ARMS["standard"]}
    check_checkpoints({"unmarked": str(unmarked)}, PROBLEMS, only_standard)
    # A tokenizer that spells the markers as text is enough; this one knows no such letters.
    arms = comparison_arms(["led"], Sampling(), depth=2, start_marker="«", end_marker="»")
    with pytest.raises(EvaluationError, match=r"^checkpoint unmarked, decoding led: "):
        check_checkpoints({"unmarked": str(unmarked)}, PROBLEMS, arms)


def test_a_completion_that_would_not_fit_the_context(base):
    arms = comparison_arms(["standard"], Sampling(max_tokens=2040))
    with pytest.raises(
        EvaluationError, match=r"at most 2048 tokens, but the prompt of problem 'b' has \d+ .*--max-tok"
    ):
        check_checkpoints({"base": str(base)}, PROBLEMS, arms)


def test_mistakes_are_one_line_and_leave_no_folder(base, other, tmp_path, capsys):
    data = tmp_path / "data.jsonl"
    data.write_text('{"problem": "1 + 1?", "answer": "2"}\n{"problem": "2 + 2?", "answer": "None"}\n')
    output = tmp_path / "out"
    command = ["evaluate", "--model", f"base={base}", "--data", str(data), "--reward", "math_answer", "--depth", "2"]
    command += ["--max-tokens", "20", "--engine", "transformers", "--output", str(output)]
    edit(other / "config.json", rms_norm_eps=1e-3)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"problem": "Zähle"}\n'.encode("latin-1"))
    for wrong, message in (
        (["--model", f"other={other}"], "checkpoint other has another configuration than base (rms_norm_eps"),
        (["--model", "typo=./nowhere"], "checkpoint typo: folder './nowhere' does not exist"),
        ([], "1 of 2 golds are unusable (2: 'None'"),
        (["--reward-options", '{"gold_column": "gold"}'], "reads the key 'gold', which no row has (keys: answer)"),
        (["--limit", "1", "--max-tokens", "5000"], "reads at most 2048 tokens"),
        (["--data", str(latin)], "latin.jsonl, line 1: not UTF-8"),
        (["--temperature", "-1"], "from 0 to 2, got '-1'"),
        (["--temperature", "nan"], "expected a number, got 'nan'"),
        (["--top-p", "0"], "above 0 and at most 1, got '0'"),
        (["--seed", "-1"], "from 0 to 2^63 - 1, got '-1'"),
    ):
        assert run_cli([*command, *wrong]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1
        assert not output.exists()


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
