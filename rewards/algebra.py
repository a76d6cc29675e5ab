"""What needs a computer algebra system: roots of equations, inequalities, and answers in notation of its own.

sympy and math-verify are imported here only, in a worker, on first use; the import does not count against an answer.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rewards.exact import PRIME
from rewards.syntax_tree import (
    Apply,
    Listing,
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

if TYPE_CHECKING:
    from rewards.real_sets import RealSet

IMPORT_ALLOWANCE = 60.0  # seconds
LARGEST_EXPONENT = 64
MOST_NODES = 200
before_import: Callable[[float], None] = lambda seconds: None  # noqa: E731
_imported: set[str] = set()


def library(name: str) -> Any:
    """A library, imported on first use; the caller's time limit is extended for the import."""
    import importlib

    if name not in _imported:
        before_import(IMPORT_ALLOWANCE)
        importlib.import_module(name)
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


def from_sympy(expression: Any) -> Node:
    """A constant sympy expression as a node. Raises Unreadable for what sympy leaves unsolved."""
    sympy = library("sympy")
    if expression == sympy.oo:
        return Symbol("oo")
    if expression == -sympy.oo:
        return Product((Number(Fraction(-1)), Symbol("oo")))
    if expression.is_Rational:
        return Number(Fraction(int(expression.p), int(expression.q)))
    names = {sympy.pi: "pi", sympy.E: "e", sympy.I: "i"}
    if expression in names:
        return Symbol(names[expression])
    if expression.is_Add:
        return Sum(tuple(map(from_sympy, expression.args)))
    if expression.is_Mul:
        return Product(tuple(map(from_sympy, expression.args)))
    if expression.is_Pow:
        return Power(*map(from_sympy, expression.args))
    if expression.func == sympy.log:
        return Apply("log", (from_sympy(expression.args[0]), Symbol("e")))
    raise Unreadable("no closed form")


def roots(zero_form: Node) -> tuple[Node, ...] | None:
    """The solutions of `zero_form = 0` in its one variable: all complex ones of a polynomial, else the real ones."""
    sympy = library("sympy")
    name = next(iter(free_symbols(zero_form)))
    expression = to_sympy(zero_form)
    symbol = sympy.Symbol(name, real=True)
    general = sympy.Symbol(name)
    found = sympy.solveset(sympy.together(expression.subs(symbol, general)), general, sympy.S.Complexes)
    if not isinstance(found, sympy.FiniteSet):
        found = sympy.solveset(expression.subs(symbol, general), general, sympy.S.Reals)
    if not isinstance(found, sympy.FiniteSet):
        return None
    try:
        return tuple(from_sympy(value) for value in found)
    except Unreadable:
        return None


def same_solutions(first: Node, second: Node) -> bool:
    """Whether two equations `... = 0` are the same after clearing denominators, up to a constant factor."""
    sympy = library("sympy")
    a, b = (sympy.fraction(sympy.together(to_sympy(node)))[0] for node in (first, second))
    ratio = sympy.cancel(a / b) if a.is_polynomial() and b.is_polynomial() and b != 0 else None
    return ratio is not None and bool(ratio.is_number) and ratio != 0


def solve_inequality(left: Node, operator: str, right: Node, name: str) -> "RealSet":
    """Solutions of a nonlinear inequality. Raises Unreadable when sympy finds none in closed form."""
    from rewards.real_sets import Interval, RealSet

    sympy = library("sympy")
    relations = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "!=": sympy.Ne, "=": sympy.Eq}
    relation = relations[operator](to_sympy(left), to_sympy(right))
    symbol = sympy.Symbol(name, real=True)
    try:
        solved = (
            relation.as_set()
            if relation in (sympy.true, sympy.false)
            else sympy.solveset(relation, symbol, sympy.S.Reals)
        )
    except (NotImplementedError, ValueError, TypeError) as error:
        raise Unreadable("an inequality that is not solved") from error
    parts = solved.args if isinstance(solved, sympy.Union) else (solved,)
    intervals = []
    for part in parts:
        if isinstance(part, sympy.Interval):
            ends = from_sympy(part.start), from_sympy(part.end)
            intervals.append(Interval(ends[0], not part.left_open, ends[1], not part.right_open))
        elif isinstance(part, sympy.FiniteSet):
            intervals += [Interval(from_sympy(x), True, from_sympy(x), True) for x in part]
        elif part is not sympy.S.EmptySet:
            raise Unreadable("an inequality that is not solved")
    return RealSet(tuple(sorted(intervals, key=lambda interval: _float(interval.low))), name)


def _float(node: Node) -> float:
    from rewards.numeric import real_value

    value = real_value(node)
    return float(value) if value is not None else 0.0


def same_by_library(gold: str, answer: str) -> bool:
    """math-verify's judgement, for notation that rewards.latex_reader leaves to it. Both must parse to expressions."""
    math_verify = library("math_verify")
    parsed = [
        [value for value in math_verify.parse(f"\\boxed{{{text}}}", parsing_timeout=None) if not isinstance(value, str)]
        for text in (gold, answer)
    ]
    if not all(parsed):
        return False
    return bool(math_verify.verify(*parsed, strict=True, timeout_seconds=None))


__all__ = ["PRIME", "Listing", "library", "roots", "same_by_library", "same_solutions", "solve_inequality"]
