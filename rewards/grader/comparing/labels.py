"""What may name a value and be left out: f(x), a segment AB, |S|, cos A, AO:OB. An equation in unknowns names none."""

from rewards.grader.syntax_tree import (
    MINUS_ONE,
    Apply,
    Node,
    Number,
    Power,
    Product,
    Ratio,
    SetOperation,
    Sum,
    Symbol,
    children,
    free_symbols,
)

FUNCTION_NAMES = frozenset({"f", "g", "h", "F", "G", "H", "P", "Q"})
COORDINATES = frozenset({"x", "y", "z"})
MEASURES = frozenset({"abs", "norm", "accent", "max", "min", "det", "sin", "cos", "tan", "cot", "sec", "csc"})


def label_of(node: Node, value: Node, in_gold: bool = False) -> str | None:
    """The name that `node = value` gives to the value, None if `node = value` is an equation to be solved.

    A sum of unknowns names its value in an answer only (m + n = 12): as a gold it is an equation.
    """
    if isinstance(node, Product) and len(node.factors) == 2:
        first, second = node.factors
        if isinstance(first, Power) and isinstance(first.base, Symbol) and first.base.name in FUNCTION_NAMES:
            first = first.base  # the inverse of f
        if isinstance(first, Symbol) and first.name not in free_symbols(value):
            if isinstance(second, Symbol) and _is_angle(second):
                return second.name  # the measure of an angle
            applied = isinstance(second, Symbol) and second.name in free_symbols(value)  # y(t) = 3t
            if first.name[0] in FUNCTION_NAMES or applied:
                return first.name
    if free_symbols(value):
        return None
    match node:
        case Apply("abs" | "norm", (Symbol(name),)) if name not in ("x", "y"):
            return "size"
        case SetOperation(_, left, right) if _is_point(left) and _is_point(right):
            return "set"
        case Ratio(parts) if all(_is_name(part) for part in parts):
            return "ratio"
        case Product((above, Power(below, exponent))) if exponent == MINUS_ONE and _is_name(above) and _is_name(below):
            return "ratio"
        case Sum(terms) if not in_gold and all(isinstance(each, Symbol) and _is_name(each) for each in terms):
            return "sum"
    return "quantity" if _is_quantity(node) else None


def same_labels(a: Node, b: Node) -> bool:
    """Whether two labels can name the same value: AB and |BA| can; AB and AB^2, AB and CD, sin A and cos A cannot, nor
    AO:OB and BO:OA."""
    parts, other_parts = _parts(a), _parts(b)
    if parts and other_parts:
        return len(parts) == len(other_parts) and all(map(same_labels, parts, other_parts))
    points, others = _points(a), _points(b)
    return (
        _powers(a) == _powers(b)
        and _functions(a) == _functions(b)
        and (points is None or others is None or points == others)
    )


def _parts(node: Node) -> tuple[Node, ...]:
    """What a ratio or a fraction divides, in order; empty for another label."""
    match node:
        case Ratio(parts):
            return tuple(parts)
        case Product((above, Power(below, exponent))) if exponent == MINUS_ONE:
            return (above, below)
    return ()


def _functions(node: Node) -> frozenset[str]:
    own = {node.function} if isinstance(node, Apply) and node.function not in ("abs", "norm", "accent") else set()
    return frozenset(own).union(*(_functions(child) for child in children(node)))


def _points(node: Node) -> frozenset[str] | None:
    """The points that a label is made of; None if it has another name, such as an angle, in it."""
    if isinstance(node, Symbol):
        point = len(node.name) == 1 and node.name.isupper() and node.name not in FUNCTION_NAMES
        return frozenset({node.name}) if point else None
    points: frozenset[str] = frozenset()
    for child in children(node):
        found = frozenset[str]() if isinstance(child, Number) else _points(child)
        if found is None:
            return None
        points |= found
    return points


def _powers(node: Node) -> frozenset[Node]:
    own = {node.exponent} if isinstance(node, Power) and node.exponent != MINUS_ONE else set()
    return frozenset(own).union(*(_powers(child) for child in children(node)))


def _is_name(node: Node) -> bool:
    """A symbol that is no coordinate, or a quantity."""
    return (isinstance(node, Symbol) and bool(free_symbols(node)) and node.name not in COORDINATES) or _is_quantity(
        node
    )


def _is_quantity(node: Node) -> bool:
    """AB, AB + CD, AB^2, cos A, |AB|, tan(alpha): made of points, angles and Greek letters, with no unknown in it."""
    match node:
        case Product(factors):
            return len(factors) > 1 and all(_is_point(factor) or _is_measure(factor) for factor in factors)
        case Sum(terms):
            return all(_is_quantity(term) or (isinstance(term, Symbol) and _is_angle(term)) for term in terms)
    return _is_measure(node)


def _is_angle(symbol: Symbol) -> bool:
    return symbol.name.startswith("angle ")


def _is_measure(node: Node) -> bool:
    match node:
        case Apply(function, arguments) if function in MEASURES:
            return all(_is_point(argument) or _is_quantity(argument) for argument in arguments)
        case Power(base, Number()):
            return _is_point(base) or _is_quantity(base)
    return False


def _is_point(node: Node) -> bool:
    if isinstance(node, Power) and isinstance(node.exponent, Number):
        return _is_point(node.base)
    if not isinstance(node, Symbol):
        return False
    name = node.name.partition("_")[0]
    if name in FUNCTION_NAMES:
        return True  # max f
    return name.startswith(("angle ", "triangle ")) or name[0].isupper() or (len(name) > 1 and name.isalpha())
