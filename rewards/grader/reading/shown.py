"""What an answer was taken for: its kind, and the reading as plain text, for people who check a dataset's golds."""

from fractions import Fraction

from rewards.grader.syntax_tree import (
    MINUS_ONE,
    Apply,
    Based,
    Bracketed,
    Congruence,
    Listing,
    Matrix,
    Node,
    Number,
    PlusMinus,
    Power,
    Product,
    Ratio,
    Relation,
    SetOf,
    SetOperation,
    Sum,
    Symbol,
    Unit,
    Words,
    contains,
)
from rewards.grader.units import PERCENT, UNITS

OPERATORS = {"union": "∪", "intersection": "∩", "difference": "\\"}
RELATIONS = {"<=": "≤", ">=": "≥", "!=": "≠", "~": "≈", "in": "∈"}


def kind_of(node: Node) -> str:
    """One word for a reading; `x = 5` counts as its value."""
    match node:
        case Number(value, places, _):
            return "decimal" if places is not None else "integer" if value.denominator == 1 else "fraction"
        case Product((Number() as sign, inner)) if sign == MINUS_ONE:
            return kind_of(inner)
        case Product((Number(), Power(Number(), exponent))) if exponent == MINUS_ONE:
            return "fraction"
        case Relation((Symbol(), value), ("=",)) if not isinstance(value, Relation):
            return kind_of(value)
        case Relation(_, operators):
            return "equation" if set(operators) == {"="} else "inequality"
        case Bracketed(opening, closing, items):
            infinite = any("∞" in shown(item) for item in items)
            return "interval" if infinite or "[" in opening or "]" in closing else "tuple"
        case SetOf() | SetOperation() | Apply("such that", _):
            return "interval" if contains(node, Bracketed) and isinstance(node, SetOperation) else "set"
        case Words(text):
            return text.split()[0] if text.startswith(("time ", "date ")) else "text"
        case Listing() | Ratio() | Matrix() | Congruence() | Based() | PlusMinus():
            return {Based: "number in a base", PlusMinus: "list", Listing: "list"}.get(
                type(node), type(node).__name__.lower()
            )
    if contains(node, Unit):
        return "percentage" if isinstance(node, Product) and PERCENT in node.factors else "quantity"
    return "expression"


def shown(node: Node) -> str:
    """The reading in plain text, with brackets wherever they could matter."""
    match node:
        case Number(value, places, truncated):
            return (_decimal(value, places) if places is not None and places > 0 else str(value)) + "..." * truncated
        case Symbol(name):
            return {"pi": "π", "oo": "∞"}.get(name, name)
        case Words(text):
            return text.removeprefix("time ").removeprefix("date ").lstrip("-")
        case Unit():
            return _unit(node)
        case Sum(terms):
            return " + ".join(map(shown, terms)).replace("+ -", "- ")
        case Product((Number() as sign, *others)) if sign == MINUS_ONE and others:
            return "-" + "·".join(map(_tight, others))
        case Product((above, Power(below, exponent))) if exponent == MINUS_ONE:
            return f"{_tight(above)}/{_tight(below)}"
        case Product(factors):
            return "".join((" " if isinstance(each, Unit) else "·") + _tight(each) for each in factors).strip("·")
        case Power(base, exponent):
            return f"{_tight(base)}^{_tight(exponent)}"
        case PlusMinus(operand, flipped):
            return ("∓" if flipped else "±") + _tight(operand)
        case Based(digits, base, is_negative):
            return f"{'-' * is_negative}{digits} in base {base}"
        case Apply(function, arguments):
            return f"{function}({', '.join(map(shown, arguments))})"
        case Bracketed(opening, closing, items):
            return opening + ", ".join(map(shown, items)) + closing
        case SetOf(items):
            return "{" + ", ".join(map(shown, items)) + "}" if items else "the empty set"
        case Listing(items, joint):
            return (", " if joint == "," else f" {joint} ").join(map(shown, items))
        case SetOperation(operator, left, right):
            return f"{_tight(left)} {OPERATORS[operator]} {_tight(right)}"
        case Relation(sides, operators):
            signs = [RELATIONS.get(operator, operator) for operator in operators]
            return shown(sides[0]) + "".join(
                f" {sign} {shown(side)}" for sign, side in zip(signs, sides[1:], strict=True)
            )
        case Congruence(left, right, modulus):
            return f"{shown(left)} ≡ {shown(right)} (mod {shown(modulus)})"
        case Ratio(parts):
            return ":".join(map(_tight, parts))
        case Matrix(rows):
            return "matrix [" + "; ".join(", ".join(map(shown, row)) for row in rows) + "]"
    raise TypeError(type(node).__name__)


def _tight(node: Node) -> str:
    text = shown(node)
    loose = isinstance(node, Sum | Product | Relation | SetOperation | Power) and not isinstance(node, Unit)
    return f"({text})" if loose or (isinstance(node, Number) and "/" in text) else text


def _decimal(value: Fraction, places: int) -> str:
    digits = str(abs(int(value * 10**places))).zfill(places + 1)
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"


def _unit(unit: Unit) -> str:
    named = next((name for name, each in UNITS.items() if each == unit), None)
    dimensions = "·".join(name + (f"^{power}" if power != 1 else "") for name, power in unit.dimensions)
    return "%" if unit == PERCENT else named or " ".join([*sorted(unit.words), *filter(None, [dimensions])])
