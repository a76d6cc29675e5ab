"""Exact evaluation of expressions: as a rational, or modulo a large prime at chosen values of the variables."""

import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import comb, gcd, isqrt, lcm, log2

from rewards.grader.syntax_tree import (
    Apply,
    Based,
    Node,
    Number,
    Power,
    Product,
    Sum,
    Symbol,
    TooLarge,
    Unit,
)
from rewards.grader.units import PERCENT

MOST_BITS = 200_000  # of an exact integer
LARGEST_FACTORIAL = 10_000
PRIME = (1 << 127) - 1


class NotRational(ValueError):
    """The value is not rational, or not seen to be."""


def rational(node: Node) -> Fraction:
    """The exact value. Raises NotRational, TooLarge, or ZeroDivisionError where it is undefined."""
    match node:
        case Number(value):
            return value
        case Based(digits, base, is_negative):
            return Fraction(int(digits, base) * (-1 if is_negative else 1))
        case Sum(terms):
            return _checked(sum((rational(term) for term in terms), Fraction(0)))
        case Product(factors):
            product = Fraction(1)
            for factor in factors:
                product = _checked(product * rational(factor))
            return product
        case Power(base, exponent):
            return rational_power(rational(base), rational(exponent))
        case Apply("root", (radicand, index)):
            degree = rational(index)
            if degree == 0:
                raise ZeroDivisionError
            return rational_power(rational(radicand), 1 / degree)
        case Apply(function, arguments) if function in _RATIONAL:
            return _RATIONAL[function](*(rational(argument) for argument in arguments))
        case Unit() if node == PERCENT:
            return Fraction(1, 100)
    raise NotRational


def rational_power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent when that is rational; real odd roots of negative numbers. Raises as `rational` does."""
    if exponent.denominator == 1:
        power = int(exponent)
        if abs(base) in (0, 1):
            if base == 0 and power < 0:
                raise ZeroDivisionError
            return base ** (power % 2 if abs(base) == 1 else min(power, 1))
        size = max(abs(base.numerator).bit_length(), base.denominator.bit_length())
        if abs(power) * size > MOST_BITS:
            raise TooLarge("exponent too large")
        return base**power
    degree = exponent.denominator
    if degree > 1000:
        raise TooLarge("root of too high a degree")
    if base < 0:
        if degree % 2 == 0:
            raise NotRational
        return rational_power(-rational_power(-base, Fraction(1, degree)), Fraction(exponent.numerator))
    above, below = integer_root(base.numerator, degree), integer_root(base.denominator, degree)
    if above is None or below is None:
        raise NotRational
    return rational_power(Fraction(above, below), Fraction(exponent.numerator))


def integer_root(value: int, degree: int) -> int | None:
    """The exact root of a natural number, None if it is not an integer."""
    if degree == 2:
        root = isqrt(value)
        return root if root * root == value else None
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**degree < value:
            low = middle + 1
        else:
            high = middle
    return low if low**degree == value else None


def _checked(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > 2 * MOST_BITS or value.denominator.bit_length() > 2 * MOST_BITS:
        raise TooLarge("number too large")
    return value


def _natural(value: Fraction, largest: int) -> int:
    if value.denominator != 1 or value < 0:
        raise NotRational
    if value > largest:
        raise TooLarge("factorial too large")
    return int(value)


@lru_cache(maxsize=64)
def _factorial(value: int, step: int) -> int:
    def product(low: int, high: int) -> int:  # halves keep the multiplications balanced
        if high - low <= 16 * step:
            result = 1
            for factor in range(high, low, -step):
                result *= factor
            return result
        middle = high - (high - low) // (2 * step) * step
        return product(low, middle) * product(middle, high)

    return product(value % step if value >= step else 0, value) if value else 1


def _binomial(upper: Fraction, lower: Fraction) -> Fraction:
    return Fraction(comb(_natural(upper, LARGEST_FACTORIAL), _natural(lower, LARGEST_FACTORIAL)))


def _integers(*values: Fraction) -> tuple[int, ...]:
    if any(value.denominator != 1 for value in values):
        raise NotRational
    return tuple(int(value) for value in values)


def _logarithm(argument: Fraction, base: Fraction) -> Fraction:
    """A rational logarithm of rationals, such as log_8 4 = 2/3."""
    if argument <= 0 or base <= 0 or base == 1:
        raise NotRational
    if argument == 1:
        return Fraction(0)
    if base < 1:
        return -_logarithm(argument, 1 / base)
    if argument < 1:
        return -_logarithm(1 / argument, base)
    if argument.numerator.bit_length() > 2000 or base.numerator.bit_length() > 2000:
        raise NotRational
    ratio = Fraction(_log2(argument) / _log2(base)).limit_denominator(1000)
    if abs(ratio) <= 5000 and base**ratio.numerator == argument**ratio.denominator:
        return ratio
    raise NotRational


def _log2(value: Fraction) -> float:
    return log2(value.numerator) - log2(value.denominator)


_RATIONAL: dict[str, Callable[..., Fraction]] = {
    "factorial": lambda value: Fraction(_factorial(_natural(value, LARGEST_FACTORIAL), 1)),
    "double factorial": lambda value: Fraction(_factorial(_natural(value, LARGEST_FACTORIAL), 2)),
    "binomial": _binomial,
    "abs": abs,
    "floor": lambda value: Fraction(value.numerator // value.denominator),
    "ceil": lambda value: Fraction(-(-value.numerator // value.denominator)),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "gcd": lambda *values: Fraction(gcd(*_integers(*values))),
    "lcm": lambda *values: Fraction(lcm(*_integers(*values))),
    "log": _logarithm,
    "mod": lambda value, modulus: Fraction(operator.mod(*_integers(value, modulus))),
}


def residue(node: Node, values: Mapping[str, int]) -> int:
    """The value of a rational function modulo PRIME at the given values of its variables.

    Raises NotRational for anything but sums, products and integer powers of variables and rationals, and
    ZeroDivisionError where a denominator vanishes.
    """
    match node:
        case Symbol(name) if name in values:
            return values[name]
        case Number(value):
            return value.numerator % PRIME * _inverse(value.denominator) % PRIME
        case Sum(terms):
            return sum(residue(term, values) for term in terms) % PRIME
        case Product(factors):
            product = 1
            for factor in factors:
                product = product * residue(factor, values) % PRIME
            return product
        case Power(base, exponent):
            power = rational(exponent)
            if power.denominator != 1 or abs(power) > 1 << 64:
                raise NotRational
            root = residue(base, values)
            return pow(root, int(power), PRIME) if power >= 0 else pow(_inverse(root), int(-power), PRIME)
        case Symbol() | Unit():
            raise NotRational
    exact = rational(node)
    return exact.numerator % PRIME * _inverse(exact.denominator) % PRIME


def _inverse(value: int) -> int:
    if value % PRIME == 0:
        raise ZeroDivisionError
    return pow(value, -1, PRIME)
