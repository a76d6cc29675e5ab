"""LiveCodeBench's columns: packed as its authors pack them, and hostile packs that must run nothing."""

import base64
import json
import os
import pickle
import zlib

import pytest

from rewards.sandbox.test_cases import Case, TestCaseError, cases_of, passes

PUBLIC = json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}])


def packed(value) -> str:
    """As the dataset's authors pack private cases."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(value)))).decode()


def row(**changes):
    private = packed([{"input": "3\n", "output": "4\n", "testtype": "stdin"}])
    return {"public_test_cases": PUBLIC, "private_test_cases": private, "metadata": "{}"} | changes


def test_public_and_private_cases_are_read():
    assert cases_of(row()) == [Case("1\n", "2\n"), Case("3\n", "4\n")]
    assert cases_of(row(), "public") == [Case("1\n", "2\n")]
    assert cases_of(row(private_test_cases=PUBLIC), "private") == [Case("1\n", "2\n")]
    functional = json.dumps([{"input": "[1]\n2", "output": "3", "testtype": "functional"}])
    named = row(public_test_cases=functional, metadata='{"func_name": "add"}')
    assert cases_of(named, "public") == [Case("[1]\n2", "3", "add")]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/led-rl-unpickled",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Bomb()))).decode()}, "refused"),
        ({"private_test_cases": base64.b64encode(zlib.compress(b"cos\nsystem\n.")).decode()}, "names os.system"),
        ({"private_test_cases": base64.b64encode(zlib.compress(b"\x80")).decode()}, "refused"),
        ({"private_test_cases": "not base64!"}, "neither JSON nor base64"),
        ({"private_test_cases": None}, "no column 'private_test_cases'"),
        ({"private_test_cases": "[1"}, "not JSON"),
        ({"private_test_cases": "[1]"}, "needs input and output"),
        ({"public_test_cases": "[]", "private_test_cases": "[]"}, "no test case"),
        ({"public_test_cases": '[{"input": "", "output": "", "testtype": "functional"}]'}, "needs func_name"),
        ({"public_test_cases": '[{"input": "", "output": "", "testtype": "telepathy"}]'}, "telepathy"),
        ({"metadata": "{"}, "metadata: not JSON"),
    ],
)
def test_bad_rows_are_refused(changes, said):
    with pytest.raises(TestCaseError, match=said):
        cases_of(row(**changes))
    assert not os.path.exists("/tmp/led-rl-unpickled")


def test_packs_that_unpack_too_far_are_refused(monkeypatch):
    monkeypatch.setattr("rewards.sandbox.test_cases.LARGEST", 1000)
    bomb = base64.b64encode(zlib.compress(b"x" * 100_000)).decode()
    with pytest.raises(TestCaseError, match="more than 1000 bytes"):
        cases_of(row(private_test_cases=bomb))


@pytest.mark.parametrize(
    ("output", "expected", "right"),
    [
        ("2\n", "2", True), ("  2  \n\n", "2", True), ("2\n3", "2 3", False), ("1.0 2", "1 2.00", True),
        ("Yes", "YES", False), ("a b", "a  b", False), ("", "2", False), ("1 2", "1 2 3", False), ("nan", "nan", True),
        ("1e2", "100", True), ("0.1", "0.1000001", False), ("x 1", "x 1.0", False),
    ],
)  # fmt: skip
def test_standard_output_is_compared_by_line(output, expected, right):
    assert passes(Case("", expected), output) is right


def test_returned_values_are_compared_as_json():
    assert passes(Case("", "[1, 2]", "f"), "[1,2]")
    assert not passes(Case("", "[1, 2]", "f"), "[2, 1]")
    assert not passes(Case("", "true", "f"), "")
    assert not passes(Case("", "true", "f"), '"true"')
