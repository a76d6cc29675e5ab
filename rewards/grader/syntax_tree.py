"""What an answer can be: expressions, and the collections, sets and relations built of them."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias


class Unreadable(ValueError):
    """The text is not an answer in the notation that the reader knows."""


class Unsupported(Unreadable):
    """Mathematics that the reader leaves to the library: integrals, sums, limits."""


class TooLarge(ValueError):
    """Exceeds a cheap limit: nesting, exponent, factorial or number size."""


@dataclass(frozen=True)
class Number:
    """An exact rational. `places` is the number of decimal places when it was written as a decimal, `truncated` says
    that digits were left out ("1.414..."); both matter only when it is compared with a number that is no decimal."""

    value: Fraction
    places: int | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Symbol:
    """A variable, or a constant: pi, e, i, oo."""

    name: str


@dataclass(frozen=True)
class Sum:
    terms: tuple["Node", ...]


@dataclass(frozen=True)
class Product:
    factors: tuple["Node", ...]


@dataclass(frozen=True)
class Power:
    base: "Node"
    exponent: "Node"


@dataclass(frozen=True)
class Apply:
    """A function of arguments: sin, log (argument, base), root (radicand, index), factorial, binomial, abs, ..."""

    function: str
    arguments: tuple["Node", ...]


@dataclass(frozen=True)
class PlusMinus:
    """`+` or `-` the operand; all of them in one item take the same side, `flipped` ones the other."""

    operand: "Node"
    flipped: bool = False


@dataclass(frozen=True)
class Unit:
    """A unit of measure: powers of base dimensions, a factor to the base units, and words that name what is counted."""

    dimensions: tuple[tuple[str, Fraction], ...] = ()
    factor: Fraction = Fraction(1)
    words: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Based:
    """Digits in a stated base, as in 52_8."""

    digits: str
    base: int
    negative: bool = False


@dataclass(frozen=True)
class Bracketed:
    """Comma-separated items in brackets: a tuple, or an interval; `opening` and `closing` are "(", "[" or "<"..."""

    opening: str
    closing: str
    items: tuple["Node", ...]


@dataclass(frozen=True)
class SetOf:
    items: tuple["Node", ...]


@dataclass(frozen=True)
class Listing:
    """Items without brackets, joined by a comma, "or" or "and"."""

    items: tuple["Node", ...]
    joint: str = ","


@dataclass(frozen=True)
class SetOperation:
    """Union, intersection or difference of sets."""

    operator: str
    left: "Node"
    right: "Node"


@dataclass(frozen=True)
class Relation:
    """A chain such as 1 < x <= 2: one operator (=, !=, <, <=, >, >=, in) between each two sides."""

    sides: tuple["Node", ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Congruence:
    """left = right (mod modulus); `left` is RESIDUE where none is written."""

    left: "Node"
    right: "Node"
    modulus: "Node"


@dataclass(frozen=True)
class Ratio:
    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple["Node", ...], ...]


@dataclass(frozen=True)
class Words:
    """A text answer in normal form, or a date or time."""

    text: str


Node: TypeAlias = (
    Number
    | Symbol
    | Sum
    | Product
    | Power
    | Apply
    | PlusMinus
    | Unit
    | Based
    | Bracketed
    | SetOf
    | Listing
    | SetOperation
    | Relation
    | Congruence
    | Ratio
    | Matrix
    | Words
)

ONE, MINUS_ONE = Number(Fraction(1)), Number(Fraction(-1))
RESIDUE = Symbol("residue")
CONSTANTS = frozenset({"pi", "e", "i", "oo"})


def negative(node: Node) -> Node:
    if isinstance(node, Number):
        return Number(-node.value, node.places, node.truncated)
    return Product((MINUS_ONE, node))


def reciprocal(node: Node) -> Node:
    return Power(node, MINUS_ONE)


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below a node."""
    match node:
        case Sum(parts) | Product(parts) | Apply(_, parts) | SetOf(parts) | Listing(parts, _) | Ratio(parts):
            return parts
        case Bracketed(_, _, parts) | Relation(parts, _):
            return parts
        case Power(base, exponent):
            return base, exponent
        case PlusMinus(operand, _):
            return (operand,)
        case SetOperation(_, left, right):
            return left, right
        case Congruence(left, right, modulus):
            return left, right, modulus
        case Matrix(rows):
            return tuple(entry for row in rows for entry in row)
    return ()


def free_symbols(node: Node) -> frozenset[str]:
    """Names of the variables in a node."""
    if isinstance(node, Symbol):
        return frozenset() if node.name in CONSTANTS else frozenset((node.name,))
    return frozenset().union(*(free_symbols(child) for child in children(node)))


def contains(node: Node, kind: type | tuple[type, ...]) -> bool:
    """Whether a node of this class, or of one of these, stands anywhere in `node`."""
    return isinstance(node, kind) or any(contains(child, kind) for child in children(node))


def substitute(node: Node, name: str, value: Node) -> Node:
    """The node with a variable replaced."""
    match node:
        case Symbol(own):
            return value if own == name else node
        case Sum(parts):
            return Sum(tuple(substitute(part, name, value) for part in parts))
        case Product(parts):
            return Product(tuple(substitute(part, name, value) for part in parts))
        case Power(base, exponent):
            return Power(substitute(base, name, value), substitute(exponent, name, value))
        case Apply(function, parts):
            return Apply(function, tuple(substitute(part, name, value) for part in parts))
    return node


def rebuilt(node: Node, change: Callable[[Node], Node]) -> Node:
    """The node with every direct child changed."""
    match node:
        case Sum(parts):
            return Sum(tuple(map(change, parts)))
        case Product(parts):
            return Product(tuple(map(change, parts)))
        case Power(base, exponent):
            return Power(change(base), change(exponent))
        case Apply(function, parts):
            return Apply(function, tuple(map(change, parts)))
        case Bracketed(opening, closing, parts):
            return Bracketed(opening, closing, tuple(map(change, parts)))
        case SetOf(parts):
            return SetOf(tuple(map(change, parts)))
        case Listing(parts, joint):
            return Listing(tuple(map(change, parts)), joint)
        case Relation(parts, operators):
            return Relation(tuple(map(change, parts)), operators)
        case Ratio(parts):
            return Ratio(tuple(map(change, parts)))
        case SetOperation(operator, left, right):
            return SetOperation(operator, change(left), change(right))
        case Congruence(left, right, modulus):
            return Congruence(change(left), change(right), change(modulus))
        case Matrix(rows):
            return Matrix(tuple(tuple(map(change, row)) for row in rows))
    return node
