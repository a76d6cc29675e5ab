"""Rows become chat prompts with golds; what cannot be read is named with its file and line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from led_rl.data import DatasetError, extract_answer, looks_local, read_rows, to_prompts


def write(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


rows = st.lists(
    st.dictionaries(st.text(min_size=1), st.none() | st.booleans() | st.integers() | st.text(), min_size=1), min_size=1
)


@given(rows, st.none() | st.integers(1, 5))
def test_rows_written_are_the_rows_read(tmp_path_factory, rows, limit):
    path = write(tmp_path_factory.mktemp("rows") / "rows.jsonl", [line for row in rows for line in (row, "", "  ")])
    assert read_rows(path, limit=limit) == rows[:limit]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"a": 1}', '{"a": 2'], "line 2: not JSON"),
        (['{"a": 1}', "", "[1, 2]"], "line 3: a row must be an object, not list"),
        (['"text"'], "line 1: a row must be an object, not str"),
        (["", "  "], "has no rows"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, lines, message):
    path = write(tmp_path / "rows.jsonl", lines)
    with pytest.raises(DatasetError) as error:
        read_rows(path)
    assert path in str(error.value)
    assert message in str(error.value)


def test_bytes_that_are_no_text_are_a_bad_line_too(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 2: not UTF-8"):
        read_rows(str(tmp_path / "rows.jsonl"))


def test_an_integer_beyond_the_limit_of_python_is_a_bad_line(tmp_path):
    with pytest.raises(DatasetError, match=r"rows\.jsonl, line 2: an integer of more than \d+ digits"):
        read_rows(write(tmp_path / "rows.jsonl", [{"a": 1}, '{"a": ' + "1" * 25_000 + "}"]))


def test_a_bad_line_beyond_the_limit_is_not_read(tmp_path):
    assert read_rows(write(tmp_path / "rows.jsonl", [{"a": 1}, "{"]), limit=1) == [{"a": 1}]


@pytest.mark.parametrize("name", ["missing.jsonl", "folder/missing.json", "./missing"])
def test_a_missing_file_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"missing.* does not exist"):
        read_rows(name)


def test_what_is_a_file_and_what_a_hub_id(tmp_path):
    assert all(looks_local(name) for name in ("a.jsonl", "a/b.json", "./a", "/a", "~/a", write(tmp_path / "a", ["x"])))
    assert not any(looks_local(name) for name in ("openai/gsm8k", "DigitalLearningGmbH/MATH-lighteval", "squad"))


def test_an_unreachable_hub_dataset_is_named(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError) as error:
        read_rows("nobody/no-such-dataset", "main", "train")
    assert all(part in str(error.value) for part in ("nobody/no-such-dataset", "'main'", "'train'", ".jsonl"))


def test_a_row_becomes_a_chat_prompt_with_its_columns_kept():
    given = [
        {"problem": "1+1?", "solution": "so \\boxed{2}", "level": 3},
        {"problem": "2+2?", "solution": "\\boxed{4}"},
    ]
    dataset = to_prompts(
        given, "rows", None, "solution", "last_box", "{problem}\nThink. {problem}{x}", "You are able to add."
    )
    assert dataset[0] == {
        "prompt": [
            {"role": "system", "content": "You are able to add."},
            {"role": "user", "content": "1+1?\nThink. 1+1?{x}"},
        ],
        "problem": "1+1?",
        "solution": "so \\boxed{2}",
        "level": 3,
        "answer": "2",
    }
    assert dataset[1]["level"] is None  # rows may lack columns
    assert dataset[1]["answer"] == "4"


def test_columns_that_mean_messages_to_trl_are_not_handed_on():
    dataset = to_prompts([{"problem": "p", "prompt": "mine", "completion": "his", "seed": 1}], "rows")
    assert dataset[0] == {"prompt": [{"role": "user", "content": "p"}], "problem": "p", "seed": 1}


def test_the_problem_is_found_in_problem_or_question_or_where_told():
    assert to_prompts([{"question": "q"}], "rows")[0]["prompt"][0]["content"] == "q"
    assert to_prompts([{"question": "q", "problem": "p"}], "rows")[0]["prompt"][0]["content"] == "p"
    assert to_prompts([{"text": 7, "problem": "p"}], "rows", "text")[0]["prompt"][0]["content"] == "7"


@pytest.mark.parametrize(
    ("row", "arguments", "missing"),
    [
        ({"text": "t"}, {}, "problem"),
        ({"problem": None}, {}, "problem"),
        ({"problem": "p"}, {"problem_column": "query"}, "query"),
        ({"problem": "p"}, {"answer_column": "gold"}, "gold"),
    ],
)
def test_a_row_without_a_column_is_named_with_the_columns_it_has(row, arguments, missing):
    first = {"problem": "p", "query": "q", "gold": "1", "text": "t"}
    with pytest.raises(DatasetError) as error:
        to_prompts([first, row], "rows.jsonl", **arguments)
    assert f"rows.jsonl, row 2: no column {missing!r}; columns: {', '.join(row)}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "extraction", "answer"),
    [
        (" 72 \n", "whole", "72"),
        ("5 #### 72", "whole", "5 #### 72"),
        ("48/2 = 24\n#### 72", "after_hashes", "72"),
        ("#### 1,234,567 ", "after_hashes", "1234567"),
        ("#### -3.5\n", "after_hashes", "-3.5"),
        ("#### (1,2)", "after_hashes", "(1,2)"),
        ("#### 3, 5", "after_hashes", "3, 5"),
        ("#### 3,5", "auto", "3,5"),
        ("#### [1,000)", "auto", "[1,000)"),
        ("#### $1,250.50", "auto", "$1250.50"),
        ("#### 1,000, 2,500", "auto", "1000, 2500"),
        ("#### (-\\infty,2]", "auto", "(-\\infty,2]"),
        ("#### 12,34", "auto", "12,34"),
        ("#### \\{1,2\\}", "auto", "\\{1,2\\}"),
        ("no hashes", "after_hashes", None),
        ("48/2 = 24\n#### 72", "auto", "72"),
        (" 72 ", "auto", "72"),
        (r"so $\boxed{2}$ and $\boxed{\frac{1}{2}}$.", "last_box", r"\frac{1}{2}"),
        (r"$\boxed {x}$", "last_box", "x"),
        (r"\boxed{\{1, 2\}}", "last_box", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", "last_box", r"\left\{ x \right."),
        (r"\boxed{\text{a \} b}}", "last_box", r"\text{a \} b}"),
        (r"our answer is $\boxed 2$.", "last_box", "2"),  # as in MATH itself
        (r"first \boxed{1}, then $\boxed\frac12$.", "last_box", r"\frac12"),
        (r"\boxed{1", "last_box", None),
        (r"\boxed", "last_box", None),
        ("no box", "last_box", None),
    ],
)
def test_the_gold_in_a_column(text, extraction, answer):
    assert extract_answer(text, extraction) == answer
    assert to_prompts([{"problem": "p", "a": text}], "rows", None, "a", extraction)[0]["answer"] == answer


braced = st.recursive(
    st.text(st.sampled_from("ab 1+$")),
    lambda inner: st.lists(inner | inner.map(lambda text: "{" + text + "}"), max_size=4).map("".join),
)


@given(braced, braced)
def test_whatever_is_boxed_last_is_the_answer(first, last):
    assert extract_answer(f"x \\boxed{{{first}}} y \\boxed{{{last}}} z", "last_box") == last
