"""High-precision evaluation, and the test whether two expressions have the same value.

Two values are the same when their difference vanishes as the precision grows, up to a precision that exceeds the size
of every number in them; a difference that stays when the precision grows is a difference, however small.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mp

from rewards.grader.comparing.exact import LARGEST_FACTORIAL, NotRational, rational
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
    Unreadable,
    children,
)
from rewards.grader.units import DEGREE, PERCENT

DIGITS = (40, 70)  # the first look
MOST_DIGITS = 6_000
LARGEST_MAGNITUDE = 1 << 24  # binary digits before the point of a value
LARGEST_ANGLE = 1 << 12  # the same for the argument of a periodic function


class Undefined(ValueError):
    """There is no value: a pole, or an operation outside its domain."""


def evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """The value at mpmath's current precision. Raises Undefined, TooLarge, or Unreadable for what has no value."""
    try:
        return _evaluate(node, values)
    except (ZeroDivisionError, OverflowError, mpmath.libmp.libhyper.NoConvergence) as error:
        raise Undefined(str(error)) from error


def _evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    match node:
        case Number(value):
            return mp.mpf(value.numerator) / value.denominator
        case Symbol(name):
            return _symbol(name, values)
        case Sum(terms):
            return mp.fsum(_evaluate(term, values) for term in terms)
        case Product(factors):
            return mp.fprod(_evaluate(factor, values) for factor in factors)
        case Power(base, exponent):
            return _power(_evaluate(base, values), exponent, values)
        case Apply("root", (radicand, index)):
            degree = _exact_integer(index)
            value = _evaluate(radicand, values)
            if degree is None or not 0 < degree < 10_000:
                return _bounded_power(value, 1 / _evaluate(index, values))
            if degree % 2 and _real(value) and mp.re(value) < 0:
                return -mp.root(-mp.re(value), degree)
            return mp.root(value, degree)
        case Apply(function, arguments):
            return _apply(function, [_evaluate(argument, values) for argument in arguments])
        case Based():
            return mp.mpf(int(rational(node)))
        case Unit() if node == DEGREE:
            return mp.pi / 180
        case Unit() if node == PERCENT:
            return mp.mpf(1) / 100
    raise Unreadable(f"{type(node).__name__} has no value")


def _symbol(name: str, values: Mapping[str, Any]) -> Any:
    if name in values:
        return values[name]
    if name == "pi":
        return +mp.pi
    if name == "e":
        return +mp.e
    if name == "i":
        return mp.mpc(0, 1)
    if name == "oo":
        return mp.inf
    raise Unreadable(f"{name} has no value")


def _real(value: Any) -> bool:
    return mp.im(value) == 0


def _exact_integer(node: Node) -> int | None:
    try:
        value = rational(node)
    except (NotRational, ZeroDivisionError):
        return None
    return int(value) if value.denominator == 1 else None


def _power(base: Any, exponent: Node, values: Mapping[str, Any]) -> Any:
    try:
        power = rational(exponent)
    except (NotRational, ZeroDivisionError):
        return _bounded_power(base, _evaluate(exponent, values))
    if power.denominator == 1:
        if base == 0 and power < 0:
            raise Undefined("division by zero")
        if power.numerator.bit_length() > 62:
            raise TooLarge("exponent too large")
        _check_magnitude(base, int(power))
        return mp.power(base, int(power))
    _check_magnitude(base, float(power) if abs(power) < 1 << 60 else 1 << 60)
    if power.denominator % 2 and _real(base) and mp.re(base) < 0 and power.denominator < 10_000:
        root = -mp.root(-mp.re(base), power.denominator)
        return mp.power(root, power.numerator)
    return mp.power(base, mp.mpf(power.numerator) / power.denominator)


def _bounded_power(base: Any, exponent: Any) -> Any:
    if mp.isinf(exponent) or mp.isnan(exponent):
        raise Undefined("an infinite exponent")
    if abs(exponent) > 1 << 62:
        raise TooLarge("exponent too large")
    if base == 0 and mp.re(exponent) <= 0 and exponent != 0:
        raise Undefined("division by zero")
    _check_magnitude(base, float(abs(exponent)))
    return mp.power(base, exponent)


def _check_magnitude(base: Any, exponent: float) -> None:
    if base == 0 or mp.isinf(base) or mp.isnan(base):
        return
    if abs(float(mp.log(abs(base), 2))) * abs(exponent) > LARGEST_MAGNITUDE:
        raise TooLarge("number too large")


def _apply(function: str, arguments: list[Any]) -> Any:
    if function not in _FUNCTIONS:
        raise Unreadable(f"{function} has no value")
    for argument in arguments:
        if mp.isinf(argument) and function not in ("arctan", "abs", "max", "min"):
            raise Undefined("an infinite argument")
        if function in _PERIODIC and abs(argument) > 1 and mp.mag(argument) > LARGEST_ANGLE:
            raise TooLarge("angle too large")
        if function in _GROWING and abs(argument) > LARGEST_FACTORIAL:
            raise TooLarge("argument too large")
    try:
        return _FUNCTIONS[function](*arguments)
    except (TypeError, ValueError) as error:
        raise Undefined(f"{function}: {error}") from error


def _modulus(value: Any) -> Any:
    return abs(value)


def _steps(rounding: Any) -> Any:
    def rounded(value: Any) -> Any:
        if not _real(value):
            raise Undefined("rounding a complex number")
        if mp.isinf(value) or (value != 0 and mp.mag(value) > mp.prec - 40):
            raise TooLarge("cannot be rounded")
        return rounding(mp.re(value))

    return rounded


def _factorial(value: Any) -> Any:
    if _real(value) and mp.re(value) < 0 and mp.isint(value):
        raise Undefined("the factorial of a negative integer")
    return mp.factorial(value)


def _log(argument: Any, base: Any) -> Any:
    if argument == 0:
        raise Undefined("log 0")
    return mp.log(argument) / mp.log(base)


_PERIODIC = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_GROWING = frozenset({"factorial", "double factorial", "sinh", "cosh", "tanh", "coth", "sech", "csch", "binomial"})
_FUNCTIONS: dict[str, Any] = {
    **{
        name: getattr(mp, name)
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch")
    },
    **{
        "arc" + name: getattr(mp, "a" + name)
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
    },
    "log": _log,
    "abs": _modulus,
    "norm": _modulus,
    "factorial": _factorial,
    "double factorial": lambda value: mp.fac2(value),
    "binomial": lambda upper, lower: mp.binomial(upper, lower),
    "floor": _steps(lambda value: mp.floor(value)),
    "ceil": _steps(lambda value: mp.ceil(value)),
    "max": lambda *values: max(mp.re(value) for value in values),
    "min": lambda *values: min(mp.re(value) for value in values),
    "sgn": lambda value: mp.sign(value),
    "Re": lambda value: mp.re(value),
    "Im": lambda value: mp.im(value),
    "arg": lambda value: mp.arg(value),
}


def same_value(left: Node, right: Node, values: Mapping[str, Fraction] | None = None) -> bool:
    """Whether two expressions have the same value, with variables at the given rationals; see the module's rule.

    Raises Undefined, TooLarge or Unreadable when a side has no value.
    """
    first = _difference(left, right, values, DIGITS[0])
    second = _difference(left, right, values, DIGITS[1])
    if first is None or second is None:
        return first is None and second is None
    if mp.isinf(first) or mp.isinf(second):
        return False
    if first > 0 and second > first * mp.mpf(10) ** -15:
        return False
    digits = min(MOST_DIGITS, 150 + 3 * (_size(left) + _size(right))) if values is None else 120
    last = second
    for precision in (digits, digits * 3 // 2):
        difference = _difference(left, right, values, precision)
        if difference is None:
            return False
        if difference > 0 and last > 0 and difference > last * mp.mpf(10) ** -15:
            return False
        last = difference
    return True


def _difference(left: Node, right: Node, values: Mapping[str, Fraction] | None, digits: int) -> Any:
    """|left - right| with this many digits; None when both are the same infinity."""
    with mp.workdps(digits):
        numbers = {name: mp.mpf(value.numerator) / value.denominator for name, value in (values or {}).items()}
        a, b = evaluate(left, numbers), evaluate(right, numbers)
        if mp.isnan(a) or mp.isnan(b):
            raise Undefined("not a number")
        if mp.isinf(a) or mp.isinf(b):
            return None if a == b else mp.inf
        return abs(a - b)


def real_value(node: Node, values: Mapping[str, Fraction] | None = None, digits: int = 30) -> Any:
    """The value as a real number, or None if it is not real. Raises as `evaluate` does."""
    with mp.workdps(digits + 10):
        numbers = {name: mp.mpf(value.numerator) / value.denominator for name, value in (values or {}).items()}
        value = evaluate(node, numbers)
        if mp.isnan(value):
            raise Undefined("not a number")
        if not _real(value) and abs(mp.im(value)) > mp.mpf(10) ** -digits * max(1, abs(value)):
            return None
        return mp.re(value)


def _size(node: Node) -> int:
    """Decimal digits of all numbers in a node, exponents multiplied out."""
    match node:
        case Number(value):
            return 1 + int(0.302 * (value.numerator.bit_length() + value.denominator.bit_length()))
        case Power(base, exponent):
            try:
                power = abs(rational(exponent))
            except (NotRational, ZeroDivisionError):
                return 20 + _size(base) + _size(exponent)
            return int(_size(base) * max(Fraction(1), min(power, Fraction(MOST_DIGITS))))
        case Apply("factorial", (argument,)):
            return 10 + 4 * _whole(argument)
    return 1 + sum(_size(child) for child in children(node))


def _whole(node: Node) -> int:
    value = _exact_integer(node)
    return 10 if value is None else min(MOST_DIGITS, abs(value))
