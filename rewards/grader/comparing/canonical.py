"""An answer without its wording: labels, chains of equalities, plus-minus signs and approximations resolved."""

from rewards.grader.comparing.amounts import as_decimal, same_amount, split_unit
from rewards.grader.comparing.arrays import computed
from rewards.grader.comparing.labels import COORDINATES, label_of
from rewards.grader.comparing.numeric import Undefined, real_value
from rewards.grader.syntax_tree import (
    MINUS_ONE,
    Apply,
    Bracketed,
    Listing,
    Matrix,
    Node,
    PlusMinus,
    Power,
    Product,
    Relation,
    SetOf,
    SetOperation,
    Sum,
    Symbol,
    TooLarge,
    Unit,
    Unreadable,
    contains,
    free_symbols,
    negative,
    rebuilt,
)
from rewards.grader.units import PERCENT

WORST_APPROXIMATION = 0.1  # relative


def canonical(node: Node) -> Node:
    """The node with every relation, list and plus-minus in it in the form that comparison expects.

    Raises Unreadable for a contradiction such as 2 + 2 = 5.
    """
    if isinstance(node, Listing | SetOf):
        items: list[Node] = []
        for item in node.items:
            inner = canonical(item)
            items += inner.items if isinstance(inner, Listing) and contains(item, PlusMinus) else [inner]
        return SetOf(tuple(items)) if isinstance(node, SetOf) else Listing(tuple(items), node.joint)
    if contains(node, PlusMinus):
        return Listing(tuple(dict.fromkeys(canonical(side) for side in _both_signs(node))))
    if isinstance(node, Relation):
        return _relation(node)
    if isinstance(node, Bracketed):
        return Bracketed(node.opening, node.closing, tuple(canonical(item) for item in node.items))
    if isinstance(node, Matrix):
        return Matrix(tuple(tuple(canonical(entry) for entry in row) for row in node.rows))
    match node:
        case SetOperation(operator, left, right):
            return SetOperation(operator, canonical(left), canonical(right))
        case Sum((left, Product((sign, right)))) if sign == MINUS_ONE and _is_set(left) and _is_set(right):
            return SetOperation("difference", left, right)
    return computed(node)


def _is_set(node: Node) -> bool:
    return (
        isinstance(node, SetOf | SetOperation)
        or node == Symbol("set R")
        or (isinstance(node, Bracketed) and len(node.items) == 2 and (node.opening, node.closing) != ("(", ")"))
    )


def _both_signs(node: Node) -> tuple[Node, Node]:
    return _signed(node, False), _signed(node, True)


def _signed(node: Node, minus: bool) -> Node:
    if isinstance(node, PlusMinus):
        operand = _signed(node.operand, minus)
        return negative(operand) if minus != node.flipped else operand
    return rebuilt(node, lambda child: _signed(child, minus))


def _relation(node: Relation) -> Node:
    sides, operators = list(node.sides), list(node.operators)
    if "~" in operators:
        _check_approximations(sides, operators)
        first = operators.index("~")
        if first == 0 and ((isinstance(sides[0], Symbol) and free_symbols(sides[0])) or _is_label(sides[0])):
            operators[0] = "="  # x ≈ 3.14 gives a value
        else:
            sides, operators = sides[: first + 1], operators[:first]  # π ≈ 3.14: the exact value counts
        if "~" in operators:
            first = operators.index("~")
            sides, operators = sides[: first + 1], operators[:first]
    if _is_label(sides[0]) and len(sides) > 1 and operators[0] in ("=", "in"):
        sides, operators = sides[1:], operators[1:]
    if not operators:
        return canonical(sides[0])
    if operators == ["in"] and (isinstance(sides[0], Bracketed) or isinstance(sides[1], SetOf)):
        return canonical(sides[1])  # (x, y) in {(1, 2), (2, 1)}
    if operators[0] == "in" and len(sides) == 2 and not isinstance(sides[1], Relation):
        return Relation((sides[0], canonical(sides[1])), ("in",))
    if all(operator == "=" for operator in operators):
        return _equality([canonical(side) for side in sides])
    return Relation(tuple(sides), tuple(operators))


def _check_approximations(sides: list[Node], operators: list[str]) -> None:
    """Raises Unreadable for an approximation that is none, such as 5 ≈ 6."""
    for left, operator, right in zip(sides, operators, sides[1:], strict=False):
        if operator == "~" and not free_symbols(left) and not free_symbols(right):
            try:
                (value, unit), (approximation, other) = split_unit(left), split_unit(right)
                a, b = real_value(value), real_value(approximation)
            except Undefined:
                continue
            if PERCENT in (unit, other) and unit != other and a is not None and b is not None:
                a, b = (a / 100, b) if unit == PERCENT else (a, b / 100)
            if a is not None and b is not None and abs(a - b) > WORST_APPROXIMATION * max(abs(a), abs(b)):
                raise Unreadable("a contradiction")


def _equality(sides: list[Node]) -> Node:
    """An equation, an assignment, or the value of a chain such as x = 2 + 3 = 5."""
    head = sides[0]
    is_name = _is_name(head, sides[1])
    rest = Listing(tuple(sides[1:]))
    if len(sides) > 2 and isinstance(head, Product) and not (free_symbols(head) & COORDINATES or free_symbols(rest)):
        return _equality(sides[1:])  # a formula and its value: pi r^2 = pi 4^2 = 16 pi
    while len(sides) > 2 and label_of(head, sides[-1]) and label_of(sides[1], sides[-1]):
        sides = sides[1:]  # AB = CD = 5
        head, is_name = sides[0], True
    names = [side for side in sides[:-1] if isinstance(side, Symbol) and free_symbols(side)]
    if len(sides) > 2 and len(names) == len(sides) - 1 and not free_symbols(sides[-1]):
        return Listing(tuple(Relation((name, sides[-1]), ("=",)) for name in names))  # x = y = 3
    if (is_name and len(sides) > 2) or not free_symbols(Listing(tuple(sides))):
        values = sides[1:] if is_name else sides
        best = next((value for value in reversed(values) if as_decimal(value) is None), values[-1])
        if isinstance(best, Listing | SetOf | Bracketed | Matrix | Relation):
            return Relation((head, best), ("=",)) if is_name else best
        if not all(isinstance(value, type(best)) or same_amount(value, best) for value in values if value != best):
            raise Unreadable("a contradiction")
        if any(value != best and not same_amount(value, best) for value in values):
            raise Unreadable("a contradiction")
        return Relation((head, best), ("=",)) if is_name else best
    if not is_name and all(_same_expressions(head, side) for side in sides[1:]):
        return sides[-1]  # an identity such as x^2 - 1 = (x - 1)(x + 1)
    if isinstance(head, Bracketed) and all(isinstance(item, Symbol) for item in head.items) and len(sides) == 2:
        return sides[1]  # (x, y) = (1, 2)
    return Relation(tuple(sides), ("=",) * (len(sides) - 1))


def _same_expressions(a: Node, b: Node) -> bool:
    plain = (Sum, Product, Power, Apply)
    try:
        return isinstance(a, plain) and isinstance(b, plain) and same_amount(a, b)
    except (TooLarge, Unreadable):
        return False


def _is_label(node: Node) -> bool:
    """Words before an equals sign, such as Area = 42."""
    if isinstance(node, Product):
        return all(_is_label(factor) for factor in node.factors)
    return isinstance(node, Unit)


def _is_name(node: Node, value: Node) -> bool:
    if isinstance(node, Symbol):
        return node.name not in free_symbols(value) and bool(free_symbols(node))
    return label_of(node, value) is not None


def assignment(node: Node, in_gold: bool = False) -> tuple[str | None, Node] | None:
    """Name and value of `x = 5` or `5 = x`; the name is None where it is a mere label such as f(x)."""
    if not (isinstance(node, Relation) and node.operators == ("=",)):
        return None
    for name, value in (node.sides, node.sides[::-1]):
        if isinstance(name, Symbol) and _is_name(name, value):
            if name == node.sides[1] and free_symbols(value):
                continue
            return name.name, value
        if label_of(name, value, in_gold):
            return None, value
    return None
