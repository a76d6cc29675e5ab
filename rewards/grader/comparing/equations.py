"""Equality of equations, and inequalities in several variables: the same up to a constant factor, or the same roots."""

from fractions import Fraction

from rewards.grader.comparing.amounts import REAL_POINTS, TRIALS, _residues, same_expression
from rewards.grader.comparing.exact import PRIME, NotRational, residue
from rewards.grader.comparing.numeric import Undefined, real_value
from rewards.grader.syntax_tree import (
    Node,
    Power,
    Product,
    Relation,
    Sum,
    Symbol,
    contains,
    free_symbols,
    negative,
    reciprocal,
)

STRICTER = {"<": "<", "<=": "<=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def same_equation(left: Relation, right: Relation) -> bool:
    """Whether two equations or inequalities say the same of their variables."""
    if len(left.operators) != 1 or len(right.operators) != 1:
        return (
            len(left.operators) == len(right.operators)
            and left.operators == right.operators
            and all(same_expression(a, b) for a, b in zip(left.sides, right.sides, strict=True))
        )
    if solved(left) != solved(right):
        return False  # 2x = 10 repeats a problem; x = 5 answers it
    operator = left.operators[0]
    if STRICTER.get(operator) is None or STRICTER.get(operator) != STRICTER.get(right.operators[0]):
        return False
    if free_symbols(left) != free_symbols(right):
        return False
    first, second = _zero_form(left), _zero_form(right)
    factor = _constant_ratio(first, second)
    if factor is not None:
        return operator in ("=", "!=") or factor > 0
    if operator != "=":
        return False
    from rewards.grader.comparing.algebra import same_solutions

    return same_solutions(first, second)


def solved(relation: Relation) -> bool:
    """Whether one side is a variable alone and the other a constant."""
    left, right = relation.sides
    return (isinstance(left, Symbol) and not free_symbols(right)) or (
        isinstance(right, Symbol) and not free_symbols(left)
    )


def _zero_form(relation: Relation) -> Node:
    """left - right, turned so that > and >= become < and <=."""
    left, right = relation.sides
    if relation.operators[0] in (">", ">="):
        left, right = right, left
    return Sum((left, negative(right)))


def _constant_ratio(first: Node, second: Node) -> int | None:
    """Sign of the constant c with first = c * second, None if there is none."""
    symbols = sorted(free_symbols(first))
    try:
        pairs = [(residue(first, values), residue(second, values)) for values in _residues(symbols)]
        (a, b), *others = pairs
        assert len(pairs) == TRIALS
        if any((a * d - b * c) % PRIME for c, d in others) or not a or not b:
            return None
    except (NotRational, ZeroDivisionError):
        ratio = Product((first, reciprocal(second)))
        if contains(ratio, Power) and not _is_constant(ratio, symbols):
            return None
    return _sign_of_ratio(first, second, symbols)


def _is_constant(node: Node, symbols: list[str]) -> bool:
    from rewards.grader.comparing.numeric import same_value
    from rewards.grader.syntax_tree import Number, substitute

    def at(point: Fraction) -> Node:
        placed = node
        for index, name in enumerate(symbols):
            placed = substitute(placed, name, Number(point + Fraction(index * 5, 7)))
        return placed

    try:
        return all(same_value(at(REAL_POINTS[0]), at(point)) for point in REAL_POINTS[1:4])
    except Undefined:
        return False


def _sign_of_ratio(first: Node, second: Node, symbols: list[str]) -> int | None:
    for point in REAL_POINTS:
        values = {name: point + Fraction(index * 5, 7) for index, name in enumerate(symbols)}
        try:
            a, b = real_value(first, values), real_value(second, values)
        except Undefined:
            continue
        if a and b:
            return 1 if (a > 0) == (b > 0) else -1
    return None
