"""Benchmarks by name, on a few rows written as their sources write them; and a benchmark of one's own."""

import base64
import json
import pickle
import re
import zlib
from collections import Counter

import pytest
import yaml

from led_rl.decoding import UserError
from led_rl.evaluation.benchmarks import Benchmark, find_benchmark, known_benchmarks, read_problems, remarks
from rewards import RewardError, load_reward

BOXED = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(name, path, limit=None):
    return read_problems(find_benchmark(f"{name}={path}"), limit)


def test_the_benchmarks_that_come_along():
    assert set(known_benchmarks()) == {
        *("aime24", "aime25", "countdown", "gpqa_diamond", "gsm8k", "livecodebench_v5", "math500"),
    }
    for name in known_benchmarks():
        benchmark = find_benchmark(f"{name}=x.jsonl")
        assert benchmark.name == name
        assert benchmark.licence
        if benchmark.reward != "code_tests":  # needs a sandbox: test_livecodebench_as_its_source_writes_it
            assert callable(load_reward(benchmark.reward, **benchmark.reward_options))


def test_gsm8k_as_its_source_writes_it(tmp_path):
    solution = "She sells 9 * 2 = $<<9*2=18>>18 every day.\n#### 1,018"
    path = write(tmp_path / "gsm8k.jsonl", {"question": "How much?", "answer": solution})
    (problem,) = read("gsm8k", path)
    assert problem.problem == "How much?" + BOXED
    assert problem.columns["answer"] == "1018"
    assert problem.id == "1"


def test_math500_as_its_source_writes_it(tmp_path):
    row = {
        "problem": "Area?",
        "solution": "It is $\\boxed{3}$.",
        "answer": "\\frac{1}{2}",
        "unique_id": "test/a/1.json",
    }
    (problem,) = read("math500", write(tmp_path / "math.jsonl", row))
    assert (problem.id, problem.columns["answer"]) == ("test/a/1.json", "\\frac{1}{2}")
    assert problem.problem == "Area?" + BOXED


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"problem": "x", "answer": "033"}, "033"),
        ({"Problem": "x", "Answer": 33}, "33"),
        ({"question": "x", "answer": 33.0}, "33"),
        ({"problem": "x", "solution": "so $\\boxed{33}$."}, "33"),
    ],
)
def test_aime_s_columns_are_found_and_its_golds_read(tmp_path, row, gold):
    (problem,) = read("aime24", write(tmp_path / "aime.jsonl", row))
    assert problem.columns["answer"] == gold
    completion = [[{"role": "assistant", "content": "</think> so \\boxed{33}"}]]
    assert load_reward("math_answer")(completion, answer=[gold]) == [1.0]


def gpqa_rows(n):
    return [
        {
            "Record ID": f"rec{i}",
            "Question": f"Which {i}?",
            "Correct Answer": f"right {i}\n",
            **{f"Incorrect Answer {j}": f"wrong {i} {j}" for j in (1, 2, 3)},
        }
        for i in range(n)
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_gpqa_s_options_are_shuffled_once_and_for_all(tmp_path, suffix):
    path = tmp_path / f"gpqa.{suffix}"
    if suffix == "jsonl":
        write(path, *gpqa_rows(40))
    else:
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, gpqa_rows(1)[0])
            writer.writeheader()
            writer.writerows(gpqa_rows(40))
    problems = read("gpqa_diamond", path)
    for i, problem in enumerate(problems):
        letter = problem.columns["answer"]
        assert f"({letter}) right {i}\n" in problem.problem
        assert problem.problem.startswith(f"Which {i}?\n\n(A) ")
        assert problem.id == f"rec{i}"
    assert min(Counter(problem.columns["answer"] for problem in problems)[letter] for letter in "ABCD") >= 4
    assert read("gpqa_diamond", path) == problems
    assert read("gpqa_diamond", path, limit=3) == problems[:3]  # a problem's order is its own
    reward = load_reward("choice_letter", letters="ABCD")
    texts = [f"</think> \\boxed{{{problem.columns['answer']}}}" for problem in problems]
    assert set(reward(texts, answer=[problem.columns["answer"] for problem in problems])) == {1.0}


def case(given, expected, kind="stdin"):
    return {"input": given, "output": expected, "testtype": kind}


def livecodebench_rows():
    """One problem of each kind, in the columns of the dataset's files."""
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps([case("4 5\n", "9\n")])))).decode()
    common = {"question_title": "t", "platform": "p", "difficulty": "easy", "contest_date": "2024-10-01T00:00:00"}
    return [
        common
        | {"question_content": "Add two numbers.", "question_id": "abc_1", "starter_code": "", "metadata": "{}"}
        | {"public_test_cases": json.dumps([case("1 2\n", "3\n")]), "private_test_cases": packed},
        common
        | {"question_content": "Double {x}.", "question_id": "2", "metadata": json.dumps({"func_name": "double"})}
        | {"starter_code": "class Solution:\n    def double(self, x: int) -> int:"}
        | {"public_test_cases": json.dumps([case("2", "4", "functional")]), "private_test_cases": "[]"},
    ]


def test_livecodebench_as_its_source_writes_it(tmp_path):
    problems = read("livecodebench_v5", write(tmp_path / "lcb.jsonl", *livecodebench_rows()))
    assert [problem.id for problem in problems] == ["abc_1", "2"]
    assert "```python\n\n# YOUR CODE HERE\n```" in problems[0].problem
    assert "Double {x}." in problems[1].problem
    assert "```python\nclass Solution:\n    def double(self, x: int) -> int:\n# YOUR" in problems[1].problem
    try:
        reward = load_reward("code_tests")
    except RewardError as error:
        pytest.skip(str(error))
    texts = [
        "```python\nprint(sum(map(int, input().split())))\n```",
        "```python\nclass Solution:\n    def double(self, x: int) -> int:\n        return 2 * x\n```",
    ]
    names = ("public_test_cases", "private_test_cases", "metadata")
    columns = {name: [problem.columns[name] for problem in problems] for name in names}
    assert reward(completions=texts, **columns) == [1.0, 1.0]
    assert reward(completions=texts[::-1], **columns) == [0.0, 0.0]


def test_gpqa_without_a_copy_of_one_s_own_says_how_to_get_it():
    with pytest.raises(UserError, match=r"gpqa_diamond: the authors .*--benchmarks gpqa_diamond=FILE.jsonl"):
        find_benchmark("gpqa_diamond")


def test_countdown_keeps_the_columns_of_its_reward(tmp_path):
    path = write(tmp_path / "c.jsonl", {"problem": "3 5 7 make 22", "numbers": [3, 5, 7], "target": 22})
    (problem,) = read("countdown", path)
    assert (problem.problem, problem.columns) == ("3 5 7 make 22", {"numbers": [3, 5, 7], "target": 22})


def test_a_benchmark_of_one_s_own(tmp_path):
    write(tmp_path / "rows.jsonl", {"text": "2+2", "gold": "4", "key": "k1"})
    own = tmp_path / "mine.yaml"
    settings = {"source": "rows.jsonl", "problem_column": "text", "answer_column": "gold", "id_column": "key"}
    own.write_text(yaml.safe_dump(settings | {"prompt": "Q: {problem}\nA:", "rows": 2}))
    benchmark = find_benchmark(str(own))
    (problem,) = read_problems(benchmark)
    assert (benchmark.name, problem.id, problem.problem) == ("mine", "k1", "Q: 2+2\nA:")
    assert problem.columns == {"gold": "4", "key": "k1", "answer": "4", "problem_text": "2+2"}
    assert remarks(benchmark, [problem], None) == [
        "benchmark mine: 1 problems, and the whole has 2: its figures are not comparable with others'"
    ]


def test_another_edition_and_a_part_of_a_benchmark_are_remarked(tmp_path):
    path = write(tmp_path / "aime.jsonl", *({"problem": f"x{i}", "answer": i} for i in range(30)))
    benchmark = find_benchmark(f"aime24={path}")
    assert "another edition than the one its file names" in remarks(benchmark, read_problems(benchmark), None)[0]
    assert remarks(benchmark, read_problems(benchmark, 3), 3) == ["benchmark aime24: the first 3 of 30 problems"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "x.jsonl", "promt": "{problem}"}, "unknown key 'promt' .*did you mean prompt"),
        ({"source": "x.jsonl", "rows": "many"}, "key 'rows': int expected, got 'many'"),
        ({"source": "x.jsonl", "prompt": "solve this"}, r"prompt must contain {problem}"),
        ({}, "its file names no source"),
        ({"source": "x.jsonl", "name": " "}, "name: expected a text"),
        ({"source": "x.jsonl", "answer": "weird"}, "answer must be one of auto, whole, after_hashes, last_box; got"),
        ({"source": "x.jsonl", "correct_from": float("nan")}, "correct_from: expected a finite number; got nan"),
        ({"source": "x.jsonl", "rows": 0}, "rows: expected an integer >= 1; got 0"),
        ({"source": ""}, "source: expected a hub id or a file; got ''"),
        ({"source": "x.jsonl", "revision": "main"}, "revision is a hub dataset's, and source is a file; got 'main'"),
        ({"source": "x.jsonl", "choices": {"correct": "a"}, "prompt": "{problem}{options}"}, "choices: expected"),
        (
            {
                "source": "x.jsonl",
                "choices": {"correct": "a", "incorrect": list("bcdefghijkl")},
                "prompt": "{problem}{options}",
            },
            "incorrect: .1 to 9 COLUMNS.",
        ),
    ],
)
def test_mistakes_in_a_benchmark_s_file(tmp_path, settings, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match=message):
        find_benchmark(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"problem": "a"}\n{broken\n', "line 2: not JSON"),
        ('{"query": "a"}\n', "line 1: no text under the key 'problem'; keys: query"),
        ('{"problem": "a"}\n{"question": "b"}\n', "line 2: no text under the key 'problem'"),
        ('{"problem": "a", "prompts": "b"}\n', "line 1: rename the key 'prompts'"),
        ('{"problem": "a", "id": 1}\n{"problem": "b", "id": 1}\n', "line 2: repeats the id '1'"),
        ('{"problem": "a", "answer": "so ####"}\n', "line 1: nothing follows `####` under the key 'answer'"),
        ('{"problem": "a", "answer": null}\n', "line 1: no answer under the key 'answer'"),
        ("\n", "has no rows"),
    ],
)
def test_unusable_rows(tmp_path, content, message):
    path = tmp_path / "problems.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_problems(Benchmark("mine", str(path)))


def test_hub_revisions_are_commits():
    for path in known_benchmarks().values():
        settings = yaml.safe_load(path.read_text())
        if "/" in settings.get("source", "") and not settings["source"].endswith(".jsonl"):
            assert re.fullmatch("[0-9a-f]{40}", settings["revision"]), path


def test_csv_rows(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text('problem,answer\n"' + "x" * 200_000 + '",1\n')
    assert len(read_problems(Benchmark("mine", str(path)))[0].problem) == 200_000
    path.write_text("problem,answer\n1, 2 or 3?,3\n")
    with pytest.raises(UserError, match=r"p\.csv, row 1: more fields than the header names"):
        read_problems(Benchmark("mine", str(path)))


def test_rows_without_an_id_have_their_number(tmp_path):
    path = write(tmp_path / "p.jsonl", {"problem": "a", "id": None}, {"problem": "b", "id": None})
    assert [problem.id for problem in read_problems(Benchmark("mine", str(path)))] == ["1", "2"]


def test_columns_are_named_or_missing(tmp_path):
    path = write(tmp_path / "p.jsonl", {"q": "a", "g": "so 1 + 2.\n#### 1,003"}, {"q": "b", "g": 4})
    named = Benchmark("mine", str(path), problem_column="q", answer_column="g")
    assert [(p.problem, p.columns["answer"]) for p in read_problems(named)] == [("a", "1003"), ("b", "4")]
    assert len(read_problems(named, limit=1)) == 1
    with pytest.raises(UserError, match="line 1: no answer under the key 'gold'; keys: q, g; name it: --answer-column"):
        read_problems(Benchmark("mine", str(path), problem_column="q", answer_column="gold"))
    with pytest.raises(UserError, match="does not exist"):
        read_problems(Benchmark("mine", str(tmp_path / "nowhere.jsonl")))
