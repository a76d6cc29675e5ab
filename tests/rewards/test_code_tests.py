"""The reward for programs, on rows of LiveCodeBench's format, with the real sandbox."""

import base64
import json
import pickle
import zlib

import pytest

from rewards import RewardError, load_reward
from rewards.answer_text.code_blocks import last_program
from rewards.sandbox.command import SandboxError, find_sandbox

try:
    find_sandbox()
    REASON = ""
except SandboxError as error:
    REASON = str(error)
needs_sandbox = pytest.mark.skipif(bool(REASON), reason=REASON)


def stdin_case(given, expected):
    return {"input": given, "output": expected, "testtype": "stdin"}


PRIVATE = base64.b64encode(zlib.compress(pickle.dumps(json.dumps([stdin_case("5 6\n", "11\n")])))).decode()
ADD = {"public_test_cases": json.dumps([stdin_case("1 2\n", "3\n")]), "private_test_cases": PRIVATE, "metadata": "{}"}
TWICE = {
    "public_test_cases": json.dumps([{"input": "[1, 2]", "output": "[2, 4]", "testtype": "functional"}]),
    "private_test_cases": json.dumps([{"input": "[]", "output": "[]", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "twice"}),
}


def block(code, language="python"):
    return f"So:\n```{language}\n{code}\n```\n"


def rewards(reward, texts, rows):
    columns = {name: [row[name] for row in rows] for name in ADD}
    return reward(completions=[[{"role": "assistant", "content": text}] for text in texts], **columns)


@needs_sandbox
def test_programs_earn_what_their_tests_say():
    reward = load_reward("code_tests", workers=2, time_limit=4.0)
    right = "a, b = map(int, input().split())\nprint(a + b)"
    method = "class Solution:\n    def twice(self, xs: List[int]) -> List[int]:\n        return [2 * x for x in xs]"
    texts = [
        block(right), block("print(3)"), right, block(method), "<think>" + block(right) + "</think>no",
        block("wrong(") + block("from __future__ import annotations\n" + right), block(right, "cpp"),
        block("print(pow(2, 10, 1000), file=__import__('sys').stderr)\n" + right),
    ]  # fmt: skip
    rows = [ADD, ADD, ADD, TWICE, ADD, ADD, ADD, ADD]
    assert rewards(reward, texts, rows) == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    verdicts = reward.judge([block("print(3)"), block("exit(0)")], [ADD, ADD])
    assert [verdict["reason"] for verdict in verdicts] == ["test 2 of 2: wrong answer", "test 1 of 2: wrong answer"]
    assert rewards(load_reward("code_tests", tests="public"), [block("print(3)")], [ADD]) == [1.0]


@needs_sandbox
def test_rows_without_tests_are_none_and_missing_columns_an_error():
    reward = load_reward("code_tests")
    assert rewards(reward, [block("print(3)")], [ADD | {"public_test_cases": "[]", "private_test_cases": "[]"}]) == [
        None
    ]
    with pytest.raises(KeyError, match="public_test_cases"):
        reward(completions=["x"], metadata=["{}"])


@needs_sandbox
def test_an_open_think_part_is_no_program():
    reward = load_reward("code_tests", prefilled_think=True)
    right = block("a, b = map(int, input().split())\nprint(a + b)")
    assert rewards(reward, [right, "</think>" + right], [ADD, ADD]) == [0.0, 1.0]


def test_without_a_sandbox_the_reward_is_refused(monkeypatch):
    from rewards import code_tests

    code_tests._sandbox.cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RewardError, match=r"code_tests: no sandbox .* install bubblewrap"):
        load_reward("code_tests")
    code_tests._sandbox.cache_clear()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tests": "some"}, "tests must be one of all, public, private; got|got 'some'"),
        ({"sandbox": "chroot"}, "sandbox must be one of auto, bubblewrap"),
        ({"time_limit": 0}, "time_limit must be"),
        ({"memory_limit_mb": 1}, "memory_limit_mb must be"),
        ({"workers": 0}, "workers must be"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(RewardError, match=said):
        load_reward("code_tests", **options)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\nx\n```", "x\n"),
        ("```\nx\n```", "x\n"),
        ("```py\nx\n```\n```python3\ny\n```", "y\n"),
        ("```python\nx\n```\n```text\nout\n```", "x\n"),
        ("```python\nx", None),
        ("```python\nx\n```\nand\n```python\ncut off", "x\n"),
        ("no code", None),
        ("````python\na = '''\n```\n'''\n````", "a = '''\n```\n'''\n"),
        ("  ```python\n  x\n  ```", "  x\n"),
        ("```python\n```", ""),
    ],
)
def test_the_last_closed_block_is_the_program(text, program):
    assert last_program(text) == program
