"""What needs a computer algebra system: equations with denominators, and golds written as integrals, sums or limits.

sympy and math-verify are imported here only, in a worker, on first use; the import does not count against an answer.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rewards.grader.comparing.exact import NotRational, rational
from rewards.grader.comparing.numeric import Undefined, real_value
from rewards.grader.syntax_tree import (
    Apply,
    Node,
    Number,
    Power,
    Product,
    Sum,
    Symbol,
    TooLarge,
    Unreadable,
    children,
    free_symbols,
)

IMPORT_ALLOWANCE = 60.0  # seconds
LARGEST_EXPONENT = 64
MOST_NODES = 200
before_import: Callable[[float], None] = lambda seconds: None  # noqa: E731
allowed = True  # see rewards.grader.workers.pool.HASTE
_imported: set[str] = set()


def library(name: str) -> Any:
    """A library, imported on first use; the caller's time limit is extended for the import."""
    import importlib

    if not allowed:
        raise TooLarge("other answers have used up the time for algebra")
    if name not in _imported:
        before_import(IMPORT_ALLOWANCE)
        imported = importlib.import_module(name)
        if name == "math_verify":
            parsed = imported.parse(r"$\int_0^1 x\,dx$", parsing_timeout=None)  # the first use builds its parser
            imported.verify(parsed, imported.parse("$2$", parsing_timeout=None), timeout_seconds=None)
        before_import(0.0)
        _imported.add(name)
    return importlib.import_module(name)


def to_sympy(node: Node) -> Any:
    """A sympy expression. Raises TooLarge or Unreadable beyond small, ordinary algebra."""
    sympy = library("sympy")
    if _count(node) > MOST_NODES:
        raise TooLarge("too long an expression for algebra")
    return _convert(node, sympy)


def _count(node: Node) -> int:
    return 1 + sum(_count(child) for child in children(node))


def _convert(node: Node, sympy: Any) -> Any:
    match node:
        case Number(value):
            return sympy.Rational(value.numerator, value.denominator)
        case Symbol("pi"):
            return sympy.pi
        case Symbol("e"):
            return sympy.E
        case Symbol("i"):
            return sympy.I
        case Symbol("oo"):
            return sympy.oo
        case Symbol(name):
            return sympy.Symbol(name, real=True)
        case Sum(terms):
            return sympy.Add(*(_convert(term, sympy) for term in terms))
        case Product(factors):
            return sympy.Mul(*(_convert(factor, sympy) for factor in factors))
        case Power(base, exponent):
            power = _convert(exponent, sympy)
            if power.is_number and abs(power) > LARGEST_EXPONENT:
                raise TooLarge("exponent too large for algebra")
            return _convert(base, sympy) ** power
        case Apply("root", (radicand, index)):
            return sympy.root(_convert(radicand, sympy), _convert(index, sympy))
        case Apply("abs", (argument,)):
            return sympy.Abs(_convert(argument, sympy))
        case Apply("log", (argument, base)):
            return sympy.log(_convert(argument, sympy), _convert(base, sympy))
        case Apply(function, (argument,)) if function in ("sin", "cos", "tan"):
            return getattr(sympy, function)(_convert(argument, sympy))
    raise Unreadable(f"no algebra for {type(node).__name__}")


def same_solutions(first: Node, second: Node) -> bool:
    """Whether two equations `... = 0` are the same after clearing denominators, up to a constant factor."""
    sympy = library("sympy")
    a, b = (sympy.fraction(sympy.together(to_sympy(node)))[0] for node in (first, second))
    ratio = sympy.cancel(a / b) if a.is_polynomial() and b.is_polynomial() and b != 0 else None
    return ratio is not None and bool(ratio.is_number) and ratio != 0


def check_size(node: Node) -> None:
    """Raises TooLarge for an answer that math-verify could compute for hours: it knows no cheap limits of its own."""
    if _count(node) > MOST_NODES:
        raise TooLarge("too long an expression for algebra")
    if free_symbols(node):
        if _largest_exponent(node) > LARGEST_EXPONENT:
            raise TooLarge("exponent too large for algebra")
        return
    try:
        real_value(node)
    except Undefined:
        return


def _largest_exponent(node: Node) -> Fraction:
    own = Fraction(0)
    if isinstance(node, Power):
        try:
            own = abs(rational(node.exponent))
        except (NotRational, ZeroDivisionError):
            own = Fraction(0)
    return max([own, *(_largest_exponent(child) for child in children(node))])


def same_by_library(gold: str, answer: str) -> bool:
    """math-verify's judgement, for notation that the grammar leaves to it. Both must parse to expressions."""
    math_verify = library("math_verify")
    parsed = [
        [value for value in math_verify.parse(f"\\boxed{{{text}}}", parsing_timeout=None) if not isinstance(value, str)]
        for text in (gold, answer)
    ]
    if not all(parsed):
        return False
    return bool(math_verify.verify(*parsed, strict=True, timeout_seconds=None))
