"""Arithmetic of matrices and vectors: sums, multiples, products, powers, inverses and determinants, entry by entry."""

from fractions import Fraction
from functools import reduce

from rewards.grader.comparing.exact import NotRational, rational
from rewards.grader.syntax_tree import (
    MINUS_ONE,
    Apply,
    Bracketed,
    Matrix,
    Node,
    Number,
    Power,
    Product,
    Sum,
    TooLarge,
    Unreadable,
    contains,
    negative,
    reciprocal,
)

MOST_ENTRIES, LARGEST_POWER, LARGEST_DETERMINANT = 100, 12, 4
Rows = tuple[tuple[Node, ...], ...]


def computed(node: Node) -> Node:
    """The matrix, vector or number that an expression of matrices comes to; any other node as it is.

    Raises Unreadable where the shapes do not fit, TooLarge beyond small matrices.
    """
    if not isinstance(node, Sum | Product | Power | Apply) or not contains(node, (Matrix, Bracketed)):
        return node
    match node:
        case Sum(terms):
            return reduce(_added, map(computed, terms))
        case Product(factors) if all(not isinstance(factor, Bracketed) for factor in factors):
            return reduce(_multiplied, map(computed, factors))
        case Product((sign, inner)) if sign == MINUS_ONE:
            return _multiplied(sign, computed(inner))
        case Power(base, exponent):
            return _raised(computed(base), exponent)
        case Apply("det", (argument,)):
            matrix = computed(argument)
            return _determinant(matrix.rows) if isinstance(matrix, Matrix) else node
    return node


def _added(left: Node, right: Node) -> Node:
    match left, right:
        case Matrix(a), Matrix(b):
            if len(a) != len(b) or len(a[0]) != len(b[0]):
                raise Unreadable("a sum of matrices of different sizes")
            return Matrix(
                tuple(tuple(Sum(pair) for pair in zip(*rows, strict=True)) for rows in zip(a, b, strict=True))
            )
        case Bracketed("(", ")", a), Bracketed("(", ")", b) if len(a) == len(b):
            return Bracketed("(", ")", tuple(Sum(pair) for pair in zip(a, b, strict=True)))
    if isinstance(left, Matrix | Bracketed) or isinstance(right, Matrix | Bracketed):
        raise Unreadable("a sum of a matrix or point and something else")
    return Sum((left, right))


def _multiplied(left: Node, right: Node) -> Node:
    match left, right:
        case Matrix(a), Matrix(b):
            if len(a[0]) != len(b):
                raise Unreadable("a product of matrices that do not fit")
            if len(a) * len(b) * len(b[0]) > MOST_ENTRIES * 5:
                raise TooLarge("too large a product of matrices")
            columns = tuple(zip(*b, strict=True))
            return Matrix(
                tuple(
                    tuple(Sum(tuple(Product(pair) for pair in zip(row, column, strict=True))) for column in columns)
                    for row in a
                )
            )
        case (Matrix(a), factor) | (factor, Matrix(a)):
            return Matrix(tuple(tuple(Product((factor, entry)) for entry in row) for row in a))
        case (Bracketed(opening, closing, items), factor) | (factor, Bracketed(opening, closing, items)):
            return Bracketed(opening, closing, tuple(Product((factor, item)) for item in items))
    return Product((left, right))


def _raised(base: Node, exponent: Node) -> Node:
    if not isinstance(base, Matrix):
        return Power(base, exponent)
    try:
        power = rational(exponent)
    except (NotRational, ZeroDivisionError) as error:
        raise Unreadable("a power of a matrix") from error
    if power.denominator != 1 or not 0 < abs(power) <= LARGEST_POWER or len(base.rows) != len(base.rows[0]):
        raise Unreadable("a power of a matrix")
    if power < 0:
        base = Matrix(_inverse(base.rows))
    result: Node = base
    for _ in range(abs(int(power)) - 1):
        result = _multiplied(_simplified(result), base)
    return result


def _simplified(matrix: Node) -> Node:
    """The matrix with rational entries worked out, so that powers do not grow."""

    def value(entry: Node) -> Node:
        try:
            return Number(rational(entry))
        except (NotRational, ZeroDivisionError):
            return entry

    assert isinstance(matrix, Matrix)
    return Matrix(tuple(tuple(value(entry) for entry in row) for row in matrix.rows))


def _minor(rows: Rows, row: int, column: int) -> Rows:
    return tuple(
        tuple(entry for index, entry in enumerate(entries) if index != column)
        for place, entries in enumerate(rows)
        if place != row
    )


def _determinant(rows: Rows) -> Node:
    if len(rows) != len(rows[0]):
        raise Unreadable("a determinant of a matrix that is not square")
    if len(rows) > LARGEST_DETERMINANT:
        raise TooLarge("too large a determinant")
    if len(rows) == 1:
        return rows[0][0]
    terms = [Product((entry, _determinant(_minor(rows, 0, column)))) for column, entry in enumerate(rows[0])]
    return Sum(tuple(negative(term) if column % 2 else term for column, term in enumerate(terms)))


def _inverse(rows: Rows) -> Rows:
    scale = reciprocal(_determinant(rows))
    if len(rows) == 1:
        return ((scale,),)
    size = range(len(rows))

    def cofactor(row: int, column: int) -> Node:
        return Product((scale, Number(Fraction((-1) ** (row + column))), _determinant(_minor(rows, row, column))))

    return tuple(tuple(cofactor(column, row) for column in size) for row in size)
