"""Sets of real numbers: intervals, unions, inequalities in one variable, and their equality."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

from mpmath import mp

from rewards.grader.comparing.amounts import same_expression
from rewards.grader.comparing.numeric import Undefined, real_value
from rewards.grader.syntax_tree import (
    Apply,
    Bracketed,
    Listing,
    Node,
    Relation,
    SetOf,
    SetOperation,
    Symbol,
    Unreadable,
    free_symbols,
    negative,
)

INFINITY, MINUS_INFINITY = Symbol("oo"), negative(Symbol("oo"))
FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!=", "=": "="}


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`; closed ends belong to it."""

    low: Node
    low_closed: bool
    high: Node
    high_closed: bool


@dataclass(frozen=True)
class RealSet:
    """Disjoint intervals in increasing order; `variable` is the name that an inequality gave to its elements."""

    intervals: tuple[Interval, ...]
    variable: str | None = None


EVERYTHING = RealSet((Interval(MINUS_INFINITY, False, INFINITY, False),))


def is_real_set(node: Node) -> bool:
    """Whether a node can only be a set of real numbers (a bracketed pair may also be a point)."""
    match node:
        case SetOperation() | Symbol("set R") | Apply("such that", _):
            return True
        case Relation(_, operators):
            return not all(operator == "=" for operator in operators) and len(free_symbols(node)) == 1
        case Listing(items, _):
            return all(is_real_set(item) for item in items)
    return False


def real_set(node: Node) -> RealSet:
    """The set that a node denotes. Raises Unreadable when it denotes none, or endpoints are no numbers."""
    match node:
        case Symbol("set R"):
            return EVERYTHING
        case Bracketed(opening, closing, (low, high)):
            return _union([_interval(low, opening == "[", high, closing == "]")])
        case SetOf(items):
            return _union([_interval(item, True, item, True) for item in items])
        case SetOperation(operator, left, right):
            first, second = real_set(left), real_set(right)
            if operator == "union":
                return _union([*first.intervals, *second.intervals])
            return _intersection(first, second if operator == "intersection" else _complement(second))
        case Relation((_, container), ("in",)):
            return RealSet(real_set(container).intervals, _variable(node))
        case Relation():
            return _solve(node)
        case Apply("such that", (element, condition)):
            if isinstance(element, Symbol) or (isinstance(element, Relation) and element.operators == ("in",)):
                return real_set(condition)
        case Listing(items, joint):
            parts = [real_set(item) for item in items]
            names = {part.variable for part in parts}
            if len(names) > 1:
                raise Unreadable("several variables")
            combined = (
                _union([i for p in parts for i in p.intervals]) if joint == "or" else reduce(_intersection, parts)
            )
            return RealSet(combined.intervals, names.pop())
        case _:
            if not free_symbols(node):
                return _union([_interval(node, True, node, True)])
    raise Unreadable("not a set of real numbers")


def same_real_set(left: RealSet, right: RealSet) -> bool:
    """Equality of sets; inequalities in differently named variables are different."""
    if left.variable and right.variable and left.variable != right.variable:
        return False
    return len(left.intervals) == len(right.intervals) and all(
        a.low_closed == b.low_closed
        and a.high_closed == b.high_closed
        and same_expression(a.low, b.low)
        and same_expression(a.high, b.high)
        for a, b in zip(left.intervals, right.intervals, strict=True)
    )


def _variable(node: Relation) -> str | None:
    first = node.sides[0]
    return first.name if isinstance(first, Symbol) else None


def _value(node: Node) -> Any:
    if node == INFINITY:
        return mp.inf
    if node == MINUS_INFINITY:
        return -mp.inf
    try:
        value = real_value(node, digits=60)
    except Undefined as error:
        raise Unreadable("an endpoint has no value") from error
    if value is None:
        raise Unreadable("an endpoint is not real")
    return value


def _interval(low: Node, low_closed: bool, high: Node, high_closed: bool) -> Interval:
    a, b = _value(low), _value(high)
    if a > b or (a == b and not (low_closed and high_closed)):
        raise Unreadable("an interval that runs backwards")
    if (mp.isinf(a) and low_closed) or (mp.isinf(b) and high_closed):
        raise Unreadable("infinity is not an element")
    return Interval(low, low_closed, high, high_closed)


def _union(intervals: list[Interval]) -> RealSet:
    merged: list[Interval] = []
    for interval in sorted(intervals, key=lambda i: (_value(i.low), not i.low_closed)):
        last = merged[-1] if merged else None
        if last is not None:
            gap, end = _value(interval.low) - _value(last.high), _value(last.high)
            if gap < 0 or (gap == 0 and (interval.low_closed or last.high_closed)):
                other = _value(interval.high)
                high = interval.high if other > end else last.high
                closed = interval.high_closed if other > end else last.high_closed
                if other == end:
                    closed = interval.high_closed or last.high_closed
                merged[-1] = Interval(last.low, last.low_closed, high, closed)
                continue
        merged.append(interval)
    return RealSet(tuple(merged))


def _complement(given: RealSet) -> RealSet:
    result: list[Interval] = []
    low, low_closed = MINUS_INFINITY, False
    for interval in given.intervals:
        if interval.low != MINUS_INFINITY:
            a, b = _value(low), _value(interval.low)
            if a < b or (a == b and low_closed and not interval.low_closed):
                result.append(Interval(low, low_closed, interval.low, not interval.low_closed))
        low, low_closed = interval.high, not interval.high_closed
    if low != INFINITY:
        result.append(Interval(low, low_closed, INFINITY, False))
    return RealSet(tuple(result))


def _intersection(left: RealSet, right: RealSet) -> RealSet:
    both = _union([*_complement(left).intervals, *_complement(right).intervals])
    return RealSet(_complement(both).intervals, left.variable or right.variable)


def _solve(relation: Relation) -> RealSet:
    """The set that a chain of comparisons states, such as 1 < x <= 2. What is not solved states none: repeating the
    problem is no answer."""
    names = free_symbols(relation)
    if len(names) != 1:
        raise Unreadable("not an inequality in one variable")
    name = next(iter(names))
    parts = []
    for left, operator, right in zip(relation.sides, relation.operators, relation.sides[1:], strict=False):
        if operator not in FLIPPED:
            raise Unreadable("not an inequality")
        parts.append(_solve_one(left, operator, right, name))
    solution = reduce(_intersection, parts)
    return RealSet(solution.intervals, name)


def _solve_one(left: Node, operator: str, right: Node, name: str) -> RealSet:
    if right == Symbol(name) and not free_symbols(left):
        left, operator, right = right, FLIPPED[operator], left
    if left != Symbol(name) or free_symbols(right):
        raise Unreadable("an inequality that is not solved")
    return _half_line(operator, right)


def _half_line(operator: str, bound: Node) -> RealSet:
    if operator == "=":
        return _union([_interval(bound, True, bound, True)])
    if operator == "!=":
        return _complement(_union([_interval(bound, True, bound, True)]))
    _value(bound)
    if operator in (">", ">="):
        return RealSet((_interval(bound, operator == ">=", INFINITY, False),))
    return RealSet((_interval(MINUS_INFINITY, False, bound, operator == "<="),))
