"""Golds: the data sets' verify against themselves, perturbed ones never do, bad ones are named."""

import json
import random
import re
from pathlib import Path

import pytest

from rewards import BadGold, check_golds
from rewards.golds import GoldReading, explain_golds
from rewards.grader.judge import gold_problem, grade

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SETS = ("gsm8k_train", "gsm8k_test", "math500", "aime2024", "aime2025")


def golds_of(name):
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").split("\n") if line]


def perturbed(gold):
    """Answers that are clearly not the gold: other digits, the other sign, a root, base or denominator missing."""
    for match in re.finditer(r"\d+", gold):
        digits = match.group()
        for other in (str(int(digits) + 1), digits + "7", str(int(digits) + 10)):
            yield gold[: match.start()] + other + gold[match.end() :]
    if re.search(r"\\sqrt\{?\d", gold) and r"\pm" not in gold:
        yield re.sub(r"\\sqrt", "", gold, count=1)
    if re.fullmatch(r"-?[\d.,]+", gold) and float(gold.replace(",", "")) != 0:
        yield gold[1:] if gold.startswith("-") else "-" + gold
        yield gold + r"\pi"
        yield f"\\sqrt{{{gold}}}" if gold not in ("1", "0") else "2"
    if re.match(r"\\frac\{\d+\}\{\d+\}$", gold):
        yield "-" + gold
        yield re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\\frac{\2}{\1}", gold)
        yield re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1", gold)
    if r"\infty" in gold:
        yield gold.replace("(", "[", 1) if gold.startswith("(2") else gold.replace(r"\infty", "100")


@pytest.mark.parametrize("name", SETS)
def test_every_gold_validates_and_verifies_against_itself(name):
    golds = golds_of(name)
    assert not [(gold, gold_problem(gold)) for gold in golds if gold_problem(gold)]
    assert not [gold for gold in golds if not grade(f"so $\\boxed{{{gold}}}$.", gold).correct]


@pytest.mark.parametrize("name", SETS)
def test_perturbed_golds_never_verify(name):
    golds = golds_of(name)
    if len(golds) > 1_500:
        golds = random.Random(0).sample(golds, 1_500)
    accepted = [
        (gold, other) for gold in golds for other in perturbed(gold) if grade(f"\\boxed{{{other}}}", gold).correct
    ]
    assert not accepted
    assert sum(len(list(perturbed(gold))) for gold in golds) >= len(golds) * 3


def test_bad_golds_are_listed_with_their_rows():
    golds = ["1", "", None, "None", r"\frac{1}{", float("nan"), "east", 42, "   ", "nan", r"\boxed{}", "1+", "2 3", {}]
    bad = check_golds(golds, workers=1)
    assert [each.row for each in bad] == [1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]
    assert bad[0] == BadGold(1, "", "is empty")
    assert bad[1].reason == "is missing"
    assert bad[2].reason == "is 'none'"
    assert bad[-1].reason == "is neither text nor number but dict"
    assert bad[3].reason.startswith("cannot be read")


@pytest.mark.parametrize(
    "gold", ["1/0", r"\frac{1}{0}", r"\frac{0}{0}", "2+2=5", "x=", "{1,2", r"5 \approx 6", "many words " * 9]
)
def test_golds_that_mean_nothing(gold):
    assert gold_problem(gold)


SENTINELS = [
    "proof", "Proof.", r"\text{proof}", "notfound", "not found", "Not Found", "See solution", "see the solution",
    "See solution above", "see explanation", "empty", "null", "N/A", "no answer", "No answer found", "not provided",
    "missing", "Proof omitted", "The proof is complete", "proved", "refer to the solution", "unknown", "-", "...", "??",
    r"\square", r"\blacksquare", "TBD", "solution not found", "proof by induction", "Q.E.D.", "not available",
]  # fmt: skip
MEANT = ["east", "no solution", "0", "none of these", "even", "-1", r"\emptyset", "true", "no", "No real solutions"]


@pytest.mark.parametrize("gold", SENTINELS)
def test_what_stands_where_a_dataset_has_no_answer_is_unusable(gold):
    assert gold_problem(gold)
    assert grade(f"\\boxed{{{gold}}}", gold).correct is None


@pytest.mark.parametrize("gold", MEANT)
def test_words_that_are_answers_stay_usable(gold):
    assert gold_problem(gold) is None
    assert grade(f"\\boxed{{{gold}}}", gold).correct


def test_hostile_golds_are_refused_or_harmless():
    bad = check_golds(["(" * 3_000 + "1" + ")" * 3_000, "9" * 100_000, "7"], workers=1)
    assert [each.row for each in bad] == [0, 1]


def test_golds_of_other_rewards():
    assert [each.row for each in check_golds(["A", "(B)", "x y", None, ""], kind="choice_letter")] == [2, 3, 4]
    with pytest.raises(ValueError, match="kind must be one of math, choice_letter, countdown"):
        check_golds([], kind="essay")


@pytest.mark.parametrize("gold", ["$42$", r"\boxed{42}", r"\(42\)", "#### 42", r"We get $\boxed{42}$.", "42.", " 42\n"])
def test_golds_in_their_wrapping(gold):
    assert grade(r"\boxed{42}", gold).correct
    assert not grade(r"\boxed{41}", gold).correct


READINGS = {
    "42": ("integer", "42"),
    r"\frac{3}{4}": ("fraction", "3/4"),
    r"-\frac{1}{2}": ("fraction", "-(1/2)"),
    "-0.50": ("decimal", "-0.50"),
    r"35\%": ("percentage", "35 %"),
    r"2\sqrt{3}": ("expression", "2·root(3, 2)"),
    "x=5": ("integer", "x = 5"),
    "x+y=5": ("equation", "x + y = 5"),
    "(1,2)": ("tuple", "(1, 2)"),
    r"(1,\infty)": ("interval", "(1, ∞)"),
    "1, 2": ("list", "1, 2"),
    r"\{1,2\}": ("set", "{1, 2}"),
    r"\begin{pmatrix}1&2\\3&4\end{pmatrix}": ("matrix", "matrix [1, 2; 3, 4]"),
    r"\text{east}": ("text", "east"),
    r"\text{(B)}": ("letter", "B"),
    r"\$4.50": ("quantity", "4.50 dollar"),
    "3:4": ("ratio", "3:4"),
    "3:30 PM": ("time", "15:30"),
    r"x\equiv3\pmod 7": ("congruence", "x ≡ 3 (mod 7)"),
    "52_8": ("number in a base", "52 in base 8"),
    "x>2": ("inequality", "x > 2"),
    r"\int_0^1 x\,dx": ("left to math-verify", r"\int_0^1 x dx"),
}


def test_what_golds_are_taken_for():
    found = explain_golds([*READINGS, None, "2 3"], workers=1)
    assert {gold: (each.kind, each.shown) for gold, each in zip(READINGS, found, strict=False)} == READINGS
    assert all(each.reason is None for each in found[:-2])
    assert found[-2] == GoldReading(len(READINGS), "unusable", "", "is missing")
    assert (found[-1].kind, found[-1].reason) == ("unusable", "cannot be read: two numbers side by side")
    assert [each.kind for each in explain_golds(["A", "x y"], kind="choice_letter")] == ["letter", "unusable"]


@pytest.mark.parametrize("name", SETS)
def test_every_gold_of_the_data_sets_can_be_shown(name):
    assert all(each.shown and each.reason is None for each in explain_golds(golds_of(name), workers=1))
