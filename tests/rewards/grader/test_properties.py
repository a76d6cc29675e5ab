"""Laws of equivalence: reflexive, symmetric, blind to spelling; and no text whatever breaks the grader."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.grader.judge import grade, same_answer
from rewards.grader.syntax_tree import TooLarge, Unreadable
from rewards.grader.workers.pool import shared_pool

numbers = st.integers(-(10**6), 10**6)
small = st.integers(2, 40)
numerals = st.one_of(
    numbers.map(str),
    st.builds(lambda a, b: f"\\frac{{{a}}}{{{b}}}", numbers, small),
    st.builds(lambda a, b: f"{a}\\sqrt{{{b}}}", small, small),
    st.builds(lambda a, b: f"\\sqrt[3]{{{a}}}+{b}", small, small),
    st.builds(lambda a, b: f"{a}^{{{b}}}", small, st.integers(-9, 9)),
    st.builds(lambda a, b: f"{a}.{b}", st.integers(0, 999), st.integers(1, 999)),
    st.builds(lambda a, b: f"{a}\\pi+{b}", small, small),
    st.builds(lambda a: f"\\sin {a}^\\circ", small),
    st.builds(lambda a, b: f"\\log_{{{a}}} {b}", small, small),
    st.builds(lambda a, b: f"{a}-{b}i", small, small),
)
polynomials = st.recursive(
    st.sampled_from(["x", "y", "2", "3", "7"]),
    lambda inner: st.one_of(
        st.builds(lambda a, b: f"({a}+{b})", inner, inner),
        st.builds(lambda a, b: f"{a} \\cdot {b}", inner, inner),
        st.builds(lambda a, b: f"({a}-{b})", inner, inner),
        st.builds(lambda a: f"({a})^{{2}}", inner),
        st.builds(lambda a, b: f"\\frac{{{a}}}{{{b}+1}}", inner, inner),
    ),
    max_leaves=6,
)
values = st.one_of(numerals, polynomials)
answers = st.one_of(
    values,
    st.builds(lambda a, b: f"\\left({a}, {b}\\right)", values, values),
    st.builds(lambda a, b: f"\\{{{a}, {b}\\}}", numerals, numerals),
    st.builds(lambda a, b: f"\\left[{min(a, b)}, {max(a, b) + 1}\\right)", numbers, numbers),
    st.builds(
        lambda a: f"x \\le {a}", numerals.filter(lambda text: "i" not in text.replace("sin", "").replace("pi", ""))
    ),
    st.builds(lambda a, b: f"\\begin{{pmatrix}} {a} \\\\ {b} \\end{{pmatrix}}", values, values),
    st.builds(lambda a: f"{a} \\text{{ cm}}", numerals),
)
PIECES = (
    r"\frac \sqrt { } ( ) [ ] \{ \} ^ _ 1 23 . , x y e i \pi \infty \left( \right] + - * / ! = < \le \in \cup \pm "
    r"\text{ \begin{pmatrix} \end{pmatrix} & \\ | \binom \sin \log \overline{ \% \$ ° 10 ^{ 9^{9^{9}} \int \sum $ : ;"
)
texts = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(PIECES.split()),
        max_size=25,
    ).map(" ".join),
)
relaxed = settings(max_examples=150, deadline=None)


def spelled_otherwise(text):
    for old, new in (("\\frac", "\\dfrac"), ("\\left", ""), ("\\right", ""), ("+", "  +  "), (",", " ,\\, ")):
        text = text.replace(old, new)
    return text


@relaxed
@given(answers)
def test_reflexive_and_blind_to_spelling(text):
    other = spelled_otherwise(text)
    assert same_answer(text, text)
    assert same_answer(text, other)
    assert same_answer(other, text)
    assert same_answer(text, f" $ {text} $ ")


@relaxed
@given(answers, answers)
def test_symmetric(left, right):
    assert _verdict(left, right) == _verdict(right, left)


@relaxed
@given(values.filter(lambda text: "." not in text), st.fractions(max_denominator=50).filter(bool))
def test_another_value_is_not_equal(value, shift):
    assert not same_answer(value, f"{value}+\\frac{{{shift.numerator}}}{{{shift.denominator}}}")


@relaxed
@given(st.fractions(max_denominator=10**4), st.integers(1, 50))
def test_every_form_of_a_rational_is_the_same(value, factor):
    text = f"\\frac{{{value.numerator * factor}}}{{{value.denominator * factor}}}"
    assert same_answer(str(value), text)
    assert same_answer(text, f"{value.numerator}\\cdot\\frac{{1}}{{{value.denominator}}}")
    assert not same_answer(text, str(value + Fraction(1, 10**9)))


@relaxed
@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_decimals_are_exact_rationals(digits, places):
    value = Fraction(digits, 10**places)
    sign, size = "-" if digits < 0 else "", abs(digits)
    written = f"{sign}{size // 10**places}.{size % 10**places:0{places}}" if places else str(digits)
    assert same_answer(str(value), written)
    assert not same_answer(str(value), f"{written}0001" if places else f"{written}.0001")


@relaxed
@given(texts)
def test_no_text_breaks_the_grader(text):
    assert grade(f"\\boxed{{{text}}}", "42").correct in (True, False)
    assert grade(text, "42", "formula").correct in (True, False)
    assert grade(r"\boxed{42}", text).correct in (True, False, None)


@settings(max_examples=5, deadline=None)
@given(st.lists(texts, min_size=20, max_size=20))
def test_fuzzed_answers_never_crash_the_pool(batch):
    pool = shared_pool(1)
    results = pool.run([{"op": "grade", "text": f"\\boxed{{{text}}}", "gold": "42"} for text in batch])
    assert all("correct" in result or result.get("failure") == "time limit" for result in results)
    assert pool.counters["crash"] == 0


def _verdict(left, right):
    try:
        return same_answer(left, right)
    except (TooLarge, Unreadable) as error:
        return type(error)
