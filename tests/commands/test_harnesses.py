"""Other harnesses against a started `led-rl serve`, each on a tiny task of its own, as docs/harnesses.md says.

Skipped where lm-evaluation-harness or inspect_ai is not installed.
"""

import importlib.util
import json
import sys

import pytest
import torch
from subprocesses import run_command

needs_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
needs_inspect = pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is None, reason="inspect-ai is not installed")
QUESTIONS = ["1+1?", "2+2?", "ab?", "say c"]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with two tasks for lm-eval: one generates, one ranks given answers."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"question": question, "answer": "2"} for question in QUESTIONS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\ntest_split: test\n"
    )
    (folder / "tiny_generate.yaml").write_text(
        f"task: tiny_generate\n{source}output_type: generate_until\n"
        "doc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {until: ['@@'], max_gen_toks: 12, do_sample: true, temperature: 0.8}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    (folder / "tiny_rank.yaml").write_text(
        f"task: tiny_rank\n{source}output_type: multiple_choice\ndoc_to_text: '{{{{question}}}}'\n"
        "doc_to_choice: ['x', 'yz', '2']\ndoc_to_target: 2\ntarget_delimiter: ''\nmetric_list: [{metric: acc}]\n"
    )
    return folder


def lm_eval(folder, kind, model, url, task, *options, status=0):
    """Output of lm-eval, and its samples if it succeeded."""
    output = folder / f"{kind}-{task}-{len(options)}"
    endpoint = {"local-completions": "completions", "local-chat-completions": "chat/completions"}[kind]
    tokenizer = f"tokenizer_backend=huggingface,tokenizer={model}," if kind == "local-completions" else ""
    arguments = f"model={model},base_url={url}/v1/{endpoint},{tokenizer}num_concurrent=2,max_retries=1,max_length=256"
    said = run_command(
        *(sys.executable, "-m", "lm_eval", "run", "--model", kind, "--model_args", arguments, "--tasks", task),
        *("--include_path", folder, "--output_path", output, "--log_samples", *options),
        timeout=300,
        status=status,
        OPENAI_API_KEY="none",
    )
    files = list(output.rglob("samples_*.jsonl"))
    return said, [json.loads(line) for file in files for line in file.read_text().splitlines()]


@needs_lm_eval
def test_lm_eval_generates_through_completions(led_server, tiny_model, tasks):
    led = json.dumps({"vllm_xargs": {"led_decoding": "led", "led_k": 4}})
    _, samples = lm_eval(tasks, "local-completions", tiny_model, led_server, "tiny_generate", "--gen_kwargs", led)
    assert len(samples) == len(QUESTIONS)
    assert all(isinstance(sample["resps"][0][0], str) for sample in samples)
    assert any(sample["resps"][0][0] for sample in samples)


@needs_lm_eval
def test_lm_eval_s_keys_reach_the_server(led_server, tiny_model, tasks):
    wrong = json.dumps({"vllm_xargs": {"led_no_such_key": 1}})
    said, _ = lm_eval(
        tasks, "local-completions", tiny_model, led_server, "tiny_generate", "--gen_kwargs", wrong, "--limit", "1",
        status=1,
    )  # fmt: skip
    assert "led_no_such_key" in said


@needs_lm_eval
def test_lm_eval_ranks_answers_by_the_final_layer(led_server, tiny_model, tasks, oracle):
    """The log-probabilities of given answers are the model's own, whatever the server's default decoding is."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    _, samples = lm_eval(tasks, "local-completions", tiny_model, led_server, "tiny_rank")
    assert len(samples) == len(QUESTIONS)
    for sample in samples:
        for answer, response in zip(("x", "yz", "2"), sample["resps"], strict=True):
            prompt = tokenizer(sample["doc"]["question"], add_special_tokens=False)["input_ids"]
            ids = prompt + tokenizer(answer, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logs = oracle(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = sum(float(logs[i - 1, ids[i]]) for i in range(len(prompt), len(ids)))
            assert float(response[0][0]) == pytest.approx(expected, abs=1e-3)


@needs_lm_eval
def test_lm_eval_generates_through_chat(led_server, tiny_model, tasks):
    options = ("--apply_chat_template",)
    _, samples = lm_eval(tasks, "local-chat-completions", tiny_model, led_server, "tiny_generate", *options)
    assert len(samples) == len(QUESTIONS)
    assert any(sample["resps"][0][0] for sample in samples)


TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def tiny():
    return Task([Sample(question, target="2") for question in {questions}], solver=generate(), scorer=includes())
"""


def inspect(folder, url, model, xargs, status=0):
    (folder / "tiny.py").write_text(TASK.format(questions=QUESTIONS))
    (folder / "body.yaml").write_text(json.dumps({"extra_body": {"vllm_xargs": xargs}}))
    return run_command(
        *(sys.executable, "-m", "inspect_ai", "eval", f"{folder}/tiny.py@tiny", "--model", f"openai-api/led/{model}"),
        *("--generate-config", folder / "body.yaml", "--max-tokens", 12, "--temperature", 0.8, "--max-retries", 0),
        *("--log-dir", folder / "logs", "--log-format", "json", "--display", "plain", "--no-fail-on-error"),
        timeout=300,
        status=status,
        LED_API_KEY="none",
        LED_BASE_URL=f"{url}/v1",
    )


@needs_inspect
def test_inspect_evaluates_through_chat(led_server, tiny_model, tmp_path):
    inspect(tmp_path, led_server, tiny_model, {"led_decoding": "led", "led_k": 4})
    (log,) = [json.loads(path.read_text()) for path in (tmp_path / "logs").glob("*.json")]
    assert log["status"] == "success"
    assert len(log["samples"]) == len(QUESTIONS)
    for sample in log["samples"]:
        assert "error" not in sample
        assert 1 <= sample["output"]["usage"]["output_tokens"] <= 12


@needs_inspect
def test_inspect_s_keys_reach_the_server(led_server, tiny_model, tmp_path):
    said = inspect(tmp_path, led_server, tiny_model, {"led_no_such_key": 1})
    logs = "".join(path.read_text() for path in (tmp_path / "logs").glob("*.json"))
    assert "led_no_such_key" in said + logs
