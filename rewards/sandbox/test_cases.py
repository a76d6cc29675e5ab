"""Test cases of programs: LiveCodeBench's columns, and how an output is compared with the expected one.

LiveCodeBench (N. Jain et al., arXiv 2403.07974) keeps its public cases as JSON and its private ones as base64 of zlib
of a pickled JSON text. That pickle is read without running anything: whatever is not a plain value is refused.
"""

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

LARGEST = 1 << 30  # bytes of unpacked private cases
WHICH = ("all", "public", "private")


class TestCaseError(ValueError):
    """A row whose test cases cannot be read."""

    __test__ = False  # not a test of pytest's


@dataclass(frozen=True)
class Case:
    """One input and the expected output; `function` names what is called, None for standard input and output."""

    given: str
    expected: str
    function: str | None = None


def cases_of(row: Mapping[str, Any], which: str = "all") -> list[Case]:
    """The test cases of a row with the columns public_test_cases, private_test_cases and metadata.

    Raises:
        TestCaseError: a column is missing or cannot be read, or there is no case.
    """
    function = _function_of(row.get("metadata"))
    found: list[Case] = []
    for name, read in (("public", _public), ("private", _private)):
        if which in ("all", name):
            column = f"{name}_test_cases"
            if row.get(column) is None:
                raise TestCaseError(f"no column {column!r}")
            found += [_case(value, column, function) for value in read(row[column])]
    if not found:
        raise TestCaseError("no test case")
    return found


def _public(written: Any) -> list[Any]:
    return _listed(written, "public_test_cases")


def _private(written: Any) -> list[Any]:
    """Packed as in the original, or as plain JSON."""
    if isinstance(written, str) and not written.lstrip().startswith("["):
        try:
            unpacker = zlib.decompressobj()
            packed = unpacker.decompress(base64.b64decode(written, validate=True), LARGEST)
        except (binascii.Error, zlib.error, ValueError) as error:
            raise TestCaseError(f"private_test_cases: neither JSON nor base64 of zlib: {error}") from error
        if unpacker.unconsumed_tail:
            raise TestCaseError(f"private_test_cases: more than {LARGEST} bytes")
        written = _PlainUnpickler.read(packed)
    return _listed(written, "private_test_cases")


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickled texts, numbers, lists and dictionaries; finds no class or function, so it can run nothing."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"names {module}.{name}")

    @classmethod
    def read(cls, data: bytes) -> Any:
        try:
            return cls(io.BytesIO(data)).load()
        except Exception as error:  # pickle raises almost anything on malformed data
            raise TestCaseError(f"private_test_cases: refused: {type(error).__name__}: {error}") from error


def _listed(written: Any, column: str) -> list[Any]:
    if isinstance(written, str | bytes):
        try:
            written = json.loads(written)
        except ValueError as error:
            raise TestCaseError(f"{column}: not JSON: {error}") from error
    if not isinstance(written, list):
        raise TestCaseError(f"{column}: a list expected, got {type(written).__name__}")
    return written


def _case(value: Any, column: str, function: str | None) -> Case:
    try:
        given, expected, kind = value["input"], value["output"], value.get("testtype", "stdin")
    except (TypeError, KeyError, AttributeError) as error:
        raise TestCaseError(f"{column}: a case needs input and output, got {str(value)[:80]!r}") from error
    if not isinstance(given, str) or not isinstance(expected, str) or kind not in ("stdin", "functional"):
        raise TestCaseError(f"{column}: a case holds texts, and a testtype of stdin or functional, got {kind!r}")
    if kind == "stdin":
        return Case(given, expected)
    if function is None:
        raise TestCaseError("metadata: a functional case needs func_name")
    return Case(given, expected, function)


def _function_of(metadata: Any) -> str | None:
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError as error:
            raise TestCaseError(f"metadata: not JSON: {error}") from error
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None


def passes(case: Case, output: str) -> bool:
    """Whether a program's output, or what its function returned, is the expected one.

    Standard output: line by line without surrounding blanks; a line also matches if its words are numbers of equal
    value. Functions: equal JSON values.
    """
    if case.function is not None:
        try:
            return bool(json.loads(output) == json.loads(case.expected))
        except ValueError:
            return False
    mine, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (output, case.expected))
    return len(mine) == len(theirs) and all(map(_same_line, mine, theirs))


def _same_line(mine: str, theirs: str) -> bool:
    if mine == theirs:
        return True
    words = mine.split(), theirs.split()
    if len(words[0]) != len(words[1]):
        return False
    try:
        return all(Decimal(a) == Decimal(b) for a, b in zip(*words, strict=True))
    except InvalidOperation:
        return False
