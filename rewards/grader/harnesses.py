"""How evaluation harnesses find and compare answers that stand without a box: re-stated, for comparison only.

* lm-eval: EleutherAI/lm-evaluation-harness 4e7e0d4, tasks/gsm8k/{gsm8k,gsm8k-cot}.yaml, filters/extraction.py,
  tasks/minerva_math/utils.py.
* Minerva: Lewkowycz et al. 2022 (arXiv 2206.14858), appendix D, as in lm-eval's minerva_math.
* simple-evals: openai/simple-evals ee3b031, math_eval.py, mgsm_eval.py, common.py.

Every grader takes (completion, gold) and says whether the completion is right.
"""

import re
from collections.abc import Callable
from typing import Any

_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_AFTER_HASHES = re.compile(r"#### (\-?[0-9\.\,]+)")
_THE_ANSWER_IS = re.compile(r"The answer is (\-?[0-9\.\,]+).")
_ANSWER_LINE = re.compile(r"(?i)Answer\s*:\s*([^\n]+)")
_MINERVA_SENTENCE = re.compile(r"Final Answer: The final answer is(.*?). I hope it is correct.")


def gsm8k_strict(completion: str, gold: str) -> bool:
    """lm-eval `gsm8k`, strict-match: the first number after `####`."""
    found = _AFTER_HASHES.findall(completion)
    return bool(found) and _gsm8k_same(found[0], gold)


def gsm8k_cot_strict(completion: str, gold: str) -> bool:
    """lm-eval `gsm8k_cot`, strict-match: the first "The answer is 42."."""
    found = _THE_ANSWER_IS.findall(completion)
    return bool(found) and _gsm8k_same(found[0], gold)


def gsm8k_flexible(completion: str, gold: str) -> bool:
    """lm-eval, flexible-extract: the last number of the completion."""
    found = _NUMBER.findall(completion)
    return bool(found) and _gsm8k_same((found[-1][0] or found[-1][1]).strip(), gold)


def _gsm8k_same(answer: str, gold: str) -> bool:
    """lm-eval's exact_match of these tasks: case, commas, dollars, what precedes `####` and a last dot are ignored."""

    def plain(text: str) -> str:
        for ignored in (",", r"\$", r"(?s).*#### ", r"\.$"):
            text = re.sub(ignored, "", text)
        return text.lower()

    return plain(answer) == plain(gold)


def simple_evals_mgsm(completion: str, gold: str) -> bool:
    """simple-evals MGSM, English: the last number behind the last "Answer"."""
    if "Answer" not in completion:
        return False
    numbers = re.findall(r"\d+\.?\d*", completion.split("Answer")[-1].strip().replace(",", ""))
    answer = numbers[-1].rstrip(".") if numbers else ""
    if "." in answer:
        answer = answer.rstrip("0").rstrip(".")
    return answer == gold.replace(",", "")


def simple_evals_math(completion: str, gold: str) -> bool:
    """simple-evals MATH: the first "Answer: ..." line. Its comparison is a language model; here it is math_answer's."""
    from rewards.grader.judge import grade

    match = _ANSWER_LINE.search(completion)
    return match is not None and grade(f"\\boxed{{{match[1]}}}", gold).correct is True


def minerva_strings(completion: str, gold: str) -> bool:
    """Minerva: the sentence of its prompt, both sides normalised, equal as strings."""
    answer = _minerva_answer(completion)
    return answer is not None and minerva_normal(answer) == minerva_normal(gold)


def minerva_sympy(completion: str, gold: str) -> bool:
    """lm-eval `minerva_math`, exact_match: the same, equal if sympy simplifies the difference to 0.

    lm-eval parses with sympy's antlr grammar, which needs one old release of antlr; here it is sympy's lark grammar.
    """
    answer = _minerva_answer(completion)
    if answer is None:
        return False
    wanted = latex_value(minerva_normal(gold))
    return wanted is not None and same_value(wanted, latex_value(minerva_normal(answer)))


def minerva_math_verify(completion: str, gold: str) -> bool:
    """lm-eval `minerva_math`, math_verify: its defaults on the solution, which boxes the gold, and the completion."""
    from math_verify import parse, verify

    return bool(verify(gold=parse(f"$\\boxed{{{gold}}}$"), target=parse(completion)))


def _minerva_answer(completion: str) -> str | None:
    match = _MINERVA_SENTENCE.search(completion + "I hope it is correct.")
    return match[1].strip() if match else None


_REPLACED = (
    *(("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), (r"\ ", ""), (" ", ""), ("mbox", "text")),
    *((",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}")),
)
_REMOVED = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue"),
    *("points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges"),
    *("students", "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2"),
    *("\\text{}^3", "\\text{\n}", "\\text{}", r"\mathrm{th}", r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", '"'),
    "\\dots",
)


def minerva_normal(answer: str) -> str:
    """Minerva's normal form of an answer."""
    answer = answer.split("=")[-1]
    for old, new in _REPLACED:
        answer = answer.replace(old, new)
    for removed in _REMOVED:
        answer = answer.replace(removed, "")
    answer = re.sub(r"(.*?)(\$)(.*?)(\$)(.*)", "$\\3$", answer)
    for command in ("text", "textbf", "overline"):
        answer = re.sub(rf"(\\{command}\{{)(.*?)(\}})", "\\2", answer)
    answer = re.sub(r"(\\boxed\{)(.*)(\})", "\\2", answer)
    answer = re.sub(r"(frac)([^{])(.)", "frac{\\2}{\\3}", answer)
    answer = re.sub(r"(sqrt)([^{])", "sqrt{\\2}", answer).replace("$", "")
    return answer.replace(",", "") if answer.replace(",", "").isdigit() else answer


def latex_value(text: str) -> Any:
    """sympy's reading of a LaTeX formula; None for none, or several."""
    from sympy.core.basic import Basic
    from sympy.parsing.latex import parse_latex

    try:
        value = parse_latex(text.strip().strip("$"), backend="lark")
    except Exception:  # lark and its transformer raise what they like
        return None
    return value if isinstance(value, Basic) else None


def same_value(left: Any, right: Any) -> bool:
    """Whether two values of sympy are equal, or their difference simplifies to 0."""
    from sympy import simplify

    if right is None:
        return False
    try:
        return bool(left == right or simplify(left - right) == 0)
    except Exception:  # values that cannot be subtracted
        return False


HARNESSES: dict[str, dict[str, Callable[[str, str], bool]]] = {
    "unboxed_gsm8k": {
        "lm-eval gsm8k, strict": gsm8k_strict,
        "lm-eval gsm8k_cot, strict": gsm8k_cot_strict,
        "lm-eval, flexible": gsm8k_flexible,
        "simple-evals MGSM": simple_evals_mgsm,
    },
    "unboxed_math": {
        "Minerva, as strings": minerva_strings,
        "lm-eval minerva_math, sympy": minerva_sympy,
        "lm-eval minerva_math, math-verify": minerva_math_verify,
        "simple-evals MATH": simple_evals_math,
    },
}
