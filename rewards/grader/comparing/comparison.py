"""Equality of answers of every kind; rewards.grader.comparing.amounts decides for single values."""

from fractions import Fraction

from rewards.grader.comparing.amounts import same_amount, same_expression
from rewards.grader.comparing.canonical import assignment, canonical
from rewards.grader.comparing.equations import same_equation
from rewards.grader.comparing.exact import NotRational, rational
from rewards.grader.comparing.labels import same_labels
from rewards.grader.comparing.real_sets import RealSet, is_real_set, real_set, same_real_set
from rewards.grader.syntax_tree import (
    RESIDUE,
    Apply,
    Based,
    Bracketed,
    Congruence,
    Listing,
    Matrix,
    Node,
    Number,
    Product,
    Ratio,
    Relation,
    SetOf,
    SetOperation,
    Sum,
    Unreadable,
    Words,
    negative,
    reciprocal,
)

LONGEST_LIST = 64


def equal(left: Node, right: Node) -> bool:
    """Whether two answers are the same. Raises TooLarge or Unreadable when that cannot be told."""
    return _equal(canonical(left), canonical(right))


def _equal(a: Node, b: Node) -> bool:
    if a == b:
        return True
    a, b = _single(_finite(a)), _single(_finite(b))
    for first, second in ((a, b), (b, a)):
        if isinstance(first, Words | Based | Congruence):
            return _equal_special(first, second)
    named_a, named_b = assignment(a, in_gold=True), assignment(b)
    if named_a and named_b:
        name, second_name = named_a[0], named_b[0]
        if not name and not second_name and not same_labels(_head(a, named_a[1]), _head(b, named_b[1])):
            return False
        if not name or not second_name or _same_name(name, second_name):
            return _equal(named_a[1], named_b[1])
        return isinstance(a, Relation) and isinstance(b, Relation) and same_equation(a, b)
    for named, other in ((named_a, b), (named_b, a)):
        if named and not isinstance(other, Relation):
            return (not _is_collection(other) or _is_collection(named[1])) and _equal(named[1], other)
    if _is_collection(a) or _is_collection(b):
        return _equal_collections(a, b)
    if is_real_set(a) or is_real_set(b):
        if isinstance(a, Apply) and isinstance(b, Apply) and _same_parts(a.arguments, b.arguments):
            return True
        return _same_real_sets(a, b)
    if isinstance(a, Bracketed | Matrix) or isinstance(b, Bracketed | Matrix):
        return _equal_arrays(a, b)
    if isinstance(a, Relation) and isinstance(b, Relation):
        return same_equation(a, b)
    if isinstance(a, Relation) or isinstance(b, Relation):
        return False
    if isinstance(a, Ratio) or isinstance(b, Ratio):
        return _equal_ratios(a, b)
    if isinstance(a, SetOperation) or isinstance(b, SetOperation):
        return False
    scaled_a, scaled_b = _scaled_matrix(a), _scaled_matrix(b)
    if scaled_a is not None or scaled_b is not None:
        return _equal(scaled_a or a, scaled_b or b)
    return same_amount(a, b)


def _same_name(a: str, b: str) -> bool:
    """S may stand for S_{ABC}; S_1 and S_2 differ."""
    return a == b or a == b.partition("_")[0] or b == a.partition("_")[0]


def _head(node: Node, value: Node) -> Node:
    """The side of an equation that is not its value."""
    assert isinstance(node, Relation)
    return node.sides[0] if node.sides[1] == value else node.sides[1]


def _finite(node: Node) -> Node:
    """The set that a union, intersection or difference of finite sets comes to."""
    if not isinstance(node, SetOperation):
        return node
    left, right = _finite(node.left), _finite(node.right)
    if not isinstance(left, SetOf) or not isinstance(right, SetOf):
        return node
    if max(len(left.items), len(right.items)) > LONGEST_LIST:
        raise Unreadable("too many elements")
    shared = tuple(item for item in left.items if any(_maybe_equal(item, other) for other in right.items))
    if node.operator == "intersection":
        return SetOf(shared)
    kept = tuple(item for item in left.items if item not in shared)
    return SetOf(kept if node.operator == "difference" else left.items + right.items)


def _single(node: Node) -> Node:
    """The element of a list or set whose elements are all the same."""
    if isinstance(node, Listing | SetOf) and node.items:
        first = node.items[0]
        if isinstance(first, SetOf) or len(node.items) > 20:
            return node
        if all(item == first or _maybe_equal(item, first) for item in node.items):
            return _single(first)
    return node


def _equal_special(first: Node, second: Node) -> bool:
    match first, second:
        case Words(a), Words(b):
            return a == b
        case Based(a, base, sign), Based(b, other, other_sign):
            return base == other and a == b and sign == other_sign
        case Congruence(a, b, modulus), Congruence(c, d, other) if same_expression(modulus, other) and (
            a == c or RESIDUE in (a, c)
        ):
            try:
                return (rational(b) - rational(d)) % rational(modulus) == 0
            except (NotRational, ZeroDivisionError):
                return same_expression(b, d)
        case Congruence(a, b, modulus), other if not isinstance(other, Congruence):
            try:  # 3 (mod 7) and 17 = 3 (mod 7) are 3, 10 (mod 7) is not
                if a != RESIDUE and (rational(a) - rational(b)) % rational(modulus):
                    return False
                return 0 <= rational(b) < rational(modulus) and same_amount(b, other)
            except (NotRational, ZeroDivisionError):
                return False
    return False


def _is_collection(node: Node) -> bool:
    return isinstance(node, SetOf) or (isinstance(node, Listing) and not is_real_set(node))


def _equal_collections(a: Node, b: Node) -> bool:
    for first, second in ((a, b), (b, a)):
        if isinstance(first, Listing) and isinstance(second, Bracketed):
            return _equal_in_order(first, second)
    if isinstance(a, Listing | SetOf) and isinstance(b, Listing | SetOf):
        return _same_elements(_values(a), _values(b))
    if is_real_set(a) or is_real_set(b):
        return _same_real_sets(_values(a), _values(b))
    return False


def _values(node: Node) -> Node:
    """x = 1, x = 2 (or x = 1, 2) as the set of values; assignments to several variables stay what they are."""
    if not isinstance(node, Listing):
        return node
    named = [assignment(item) for item in node.items]
    names = {each[0] for each in named if each}
    if len(names) == 1 and named[0]:
        return Listing(tuple(each[1] if each else item for each, item in zip(named, node.items, strict=True)))
    return node


def _equal_in_order(listing: Listing, point: Bracketed) -> bool:
    """`1, 2` or `x = 1, y = 2` against the point (1, 2)."""
    if (point.opening, point.closing) != ("(", ")") or len(listing.items) != len(point.items):
        return False
    named = [assignment(item) for item in listing.items]
    items = list(listing.items)
    if all(each and each[0] for each in named):
        items = [each[1] for each in sorted((each for each in named if each), key=lambda each: each[0] or "")]
    elif any(named):
        return False
    return _same_parts(tuple(items), point.items)


def _same_elements(a: Node, b: Node) -> bool:
    """Equality as sets: every element of one equals an element of the other."""
    assert isinstance(a, Listing | SetOf)
    assert isinstance(b, Listing | SetOf)
    if max(len(a.items), len(b.items)) > LONGEST_LIST:
        raise Unreadable("too many elements")
    left, right = list(dict.fromkeys(a.items)), list(dict.fromkeys(b.items))
    unmatched = list(right)
    for item in left:
        match = next((other for other in unmatched if _maybe_equal(item, other)), None)
        if match is not None:
            unmatched.remove(match)
        elif not any(_maybe_equal(item, other) for other in right):
            return False
    return all(any(_maybe_equal(item, other) for item in left) for other in unmatched)


def _maybe_equal(a: Node, b: Node) -> bool:
    try:
        return _equal(a, b)
    except Unreadable:
        return False


def _same_parts(left: tuple[Node, ...], right: tuple[Node, ...]) -> bool:
    return len(left) == len(right) and all(_equal(a, b) for a, b in zip(left, right, strict=True))


def _same_real_sets(a: Node, b: Node) -> bool:
    if isinstance(a, SetOperation) and isinstance(b, SetOperation) and a.operator == b.operator:
        parts = (a.left, a.right), (b.left, b.right)
        if _maybe_same_parts(*parts):
            return True
    first, second = _real_set_or_none(a), _real_set_or_none(b)
    if first is None and second is None and isinstance(a, Relation) and isinstance(b, Relation):
        return same_equation(a, b)
    return first is not None and second is not None and same_real_set(first, second)


def _real_set_or_none(node: Node) -> RealSet | None:
    try:
        return real_set(node)
    except Unreadable:
        return None


def _maybe_same_parts(left: tuple[Node, ...], right: tuple[Node, ...]) -> bool:
    try:
        return _same_parts(left, right)
    except Unreadable:
        return False


def _equal_arrays(a: Node, b: Node) -> bool:
    match a, b:
        case Bracketed(opening, closing, items), Bracketed(other_opening, other_closing, others):
            return (opening, closing) == (other_opening, other_closing) and _same_parts(items, others)
        case Matrix(rows), Matrix(others):
            return len(rows) == len(others) and all(_same_parts(x, y) for x, y in zip(rows, others, strict=True))
        case (Matrix(rows), Bracketed() as point) | (Bracketed() as point, Matrix(rows)):
            if all(isinstance(item, Bracketed) for item in point.items):
                return _equal_arrays(
                    Matrix(rows), Matrix(tuple(item.items for item in point.items if isinstance(item, Bracketed)))
                )
            vector = tuple(entry for row in rows for entry in row)
            is_vector = len(rows) == 1 or all(len(row) == 1 for row in rows)
            matching = (point.opening, point.closing) in (("(", ")"), ("[", "]"))
            return is_vector and matching and _same_parts(vector, point.items)
    scaled_a, scaled_b = _scaled_matrix(a), _scaled_matrix(b)
    if scaled_a is not None or scaled_b is not None:
        return _equal_arrays(scaled_a or a, scaled_b or b)
    return False


def _scaled_matrix(node: Node) -> Node | None:
    """A number times a matrix or vector, multiplied in."""
    if not isinstance(node, Product):
        return None
    arrays = [factor for factor in node.factors if isinstance(factor, Matrix | Bracketed)]
    if len(arrays) != 1:
        return None
    others = tuple(factor for factor in node.factors if factor is not arrays[0])
    array = arrays[0]
    if isinstance(array, Matrix):
        return Matrix(tuple(tuple(Product((*others, entry)) for entry in row) for row in array.rows))
    return Bracketed(array.opening, array.closing, tuple(Product((*others, item)) for item in array.items))


def _equal_ratios(a: Node, b: Node) -> bool:
    """3:4 equals 6:8 and 3/4; a ratio with a zero part equals itself alone."""
    zero: Node = Number(Fraction(0))
    if any(isinstance(side, Ratio) and any(same_expression(part, zero) for part in side.parts) for side in (a, b)):
        return isinstance(a, Ratio) and isinstance(b, Ratio) and _same_parts(a.parts, b.parts)
    if isinstance(a, Ratio) and isinstance(b, Ratio):
        if len(a.parts) != len(b.parts):
            return False
        return all(
            same_expression(Sum((Product((x, b.parts[0])), negative(Product((y, a.parts[0]))))), zero)
            for x, y in zip(a.parts[1:], b.parts[1:], strict=True)
        )
    ratio, other = (a, b) if isinstance(a, Ratio) else (b, a)
    assert isinstance(ratio, Ratio)
    return len(ratio.parts) == 2 and same_amount(Product((ratio.parts[0], reciprocal(ratio.parts[1]))), other)
