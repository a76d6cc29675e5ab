"""Equality of two values: exact first, decimals at the precision that they state, units converted or optional."""

from collections.abc import Iterator
from fractions import Fraction

from mpmath import mp

from rewards.grader.comparing.exact import PRIME, NotRational, rational, residue
from rewards.grader.comparing.numeric import Undefined, real_value, same_value
from rewards.grader.syntax_tree import (
    MINUS_ONE,
    Node,
    Number,
    Power,
    Product,
    Sum,
    Symbol,
    Unit,
    Unreadable,
    contains,
    free_symbols,
)
from rewards.grader.units import DEGREE, PERCENT, UNITS, times, to_power

FEWEST_DIGITS = 3  # significant digits that a decimal must state to stand for a number that is no short decimal
SHORT_DECIMAL = 12  # a number with at most this many decimal places must be given exactly
TRIALS = 3  # random points modulo a 127-bit prime
REAL_POINTS = [Fraction(n, d) for n, d in ((37, 53), (13, 47), (211, 97), (89, 101), (-71, 83), (-173, 59))]
RADIAN = UNITS["radian"]
PER_DEGREE = Product((Symbol("pi"), Number(Fraction(1, 180))))


def same_amount(left: Node, right: Node) -> bool:
    """Whether two values, with or without units, are equal. Raises TooLarge when that cannot be decided cheaply."""
    if left == right:
        return True
    if is_bare_unit(left) != is_bare_unit(right):
        return False  # cm is not 1 cm, nor 1
    (a, unit_a), (b, unit_b) = split_unit(left), split_unit(right)
    if unit_a is None and unit_b is None:
        return same_expression(a, b)
    if not _words_agree(unit_a or Unit(), unit_b or Unit()):
        return False
    bare_a, bare_b = unit_a is None or not unit_a.dimensions, unit_b is None or not unit_b.dimensions
    if bare_a and bare_b:
        return same_expression(a, b)
    if bare_a:
        return _same_with_optional_unit(b, unit_b or Unit(), a)
    if bare_b:
        return _same_with_optional_unit(a, unit_a or Unit(), b)
    assert unit_a is not None
    assert unit_b is not None
    if unit_a.dimensions == unit_b.dimensions:
        if unit_a.factor == unit_b.factor:
            return same_expression(a, b)
        return same_expression(_scaled(a, unit_a.factor), _scaled(b, unit_b.factor))
    if {unit_a, unit_b} == {DEGREE, RADIAN}:
        degrees, radians = (a, b) if unit_a == DEGREE else (b, a)
        return same_expression(Product((degrees, PER_DEGREE)), radians)
    return False


def is_bare_unit(node: Node) -> bool:
    """Whether a node is a unit, sign of currency or word without any number."""
    match node:
        case Product(factors):
            return all(is_bare_unit(factor) or factor == MINUS_ONE for factor in factors)
        case Power(base, _):
            return is_bare_unit(base)
    return isinstance(node, Unit)


def _same_with_optional_unit(amount: Node, unit: Unit, bare: Node) -> bool:
    """An amount with a unit against a bare number: the unit may be left out; percent and degrees may be converted."""
    if unit == PERCENT:
        if same_expression(_scaled(amount, Fraction(1, 100)), bare):
            return True
        try:
            return rational(bare) > 1 and same_expression(amount, bare)
        except (NotRational, ZeroDivisionError):
            return same_expression(amount, bare)
    if unit == DEGREE and contains_symbol(bare, "pi"):
        return same_expression(Product((amount, PER_DEGREE)), bare)
    return same_expression(amount, bare)


def contains_symbol(node: Node, name: str) -> bool:
    from rewards.grader.syntax_tree import children

    return node == Symbol(name) or any(contains_symbol(child, name) for child in children(node))


def _words_agree(a: Unit, b: Unit) -> bool:
    """What is counted may be left out or said in more words, but 3 apples are neither 3 oranges nor 3 cm."""
    if bool(a.dimensions) != bool(b.dimensions) and (a.words if b.dimensions else b.words):
        return False
    return not a.words or not b.words or a.words <= b.words or b.words <= a.words


def _scaled(node: Node, factor: Fraction) -> Node:
    if decimal := as_decimal(node):
        places, scale = decimal.places or 0, factor
        while scale.denominator % 10 == 0:
            scale, places = scale * 10, places + 1
        while scale.numerator % 10 == 0 and scale:
            scale, places = scale / 10, places - 1
        if scale == 1:  # a shift of the point keeps the stated precision
            return Number(decimal.value * factor, places, decimal.truncated)
        return Number(decimal.value * factor)
    return Product((node, Number(factor)))


def split_unit(node: Node) -> tuple[Node, Unit | None]:
    """A value and its unit. Raises Unreadable where units stand where none can be."""
    if not contains(node, Unit):
        return node, None
    match node:
        case Unit():
            return Number(Fraction(1)), node
        case Product(factors):
            parts = [split_unit(factor) for factor in factors]
            unit = Unit()
            for _, other in parts:
                unit = times(unit, other or Unit())
            values = [value for factor, (value, _) in zip(factors, parts, strict=True) if not isinstance(factor, Unit)]
            value: Node = values[0] if len(values) == 1 else Product(tuple(values)) if values else Number(Fraction(1))
            return value, unit
        case Power(base, exponent):
            value, base_unit = split_unit(base)
            power = rational(exponent)
            return Power(value, exponent), to_power(base_unit or Unit(), power)
        case Sum(terms):
            if any(is_bare_unit(term) for term in terms):
                raise Unreadable("a unit without a number")
            parts = [split_unit(term) for term in terms]
            units = [unit or Unit() for _, unit in parts]
            if units[-1].dimensions and not any(unit.dimensions for unit in units[:-1]):
                return Sum(tuple(value for value, _ in parts)), units[-1]  # 3 + 2\sqrt{2} cm
            if len({unit.dimensions for unit in units}) != 1:
                raise Unreadable("a sum of different units")
            if len({unit.factor for unit in units}) == 1:
                return Sum(tuple(value for value, _ in parts)), units[0]
            terms = tuple(_scaled(value, unit.factor) for (value, _), unit in zip(parts, units, strict=True))
            return Sum(terms), Unit(units[0].dimensions, Fraction(1), frozenset())
    return node, None  # inside a function: sin 30°


def as_decimal(node: Node) -> Number | None:
    """A decimal literal, with sign and power of ten folded in; None for anything else."""
    match node:
        case Number(_, places, _) if places is not None:
            return node
        case Product((Number(Fraction(numerator=-1, denominator=1)), inner)):
            decimal = as_decimal(inner)
            return decimal and Number(-decimal.value, decimal.places, decimal.truncated)
        case Product(
            (Number(_, places, _) as mantissa, Power(Number(Fraction(numerator=10, denominator=1)), exponent))
        ):
            try:
                shift = rational(exponent)
            except (NotRational, ZeroDivisionError):
                return None
            if places is not None and shift.denominator == 1 and abs(shift) < 5000:
                return Number(mantissa.value * Fraction(10) ** int(shift), places - int(shift), mantissa.truncated)
    return None


def same_expression(a: Node, b: Node) -> bool:
    """Whether two expressions without units are equal, for all values of their variables.

    Raises TooLarge or Unreadable when a side has no value that can be computed.
    """
    if a == b:
        return True
    decimal_a, decimal_b = as_decimal(a), as_decimal(b)
    if decimal_a and decimal_a.truncated:
        decimal_a = _periodic(decimal_a)
    if decimal_b and decimal_b.truncated:
        decimal_b = _periodic(decimal_b)
    a, b = decimal_a or a, decimal_b or b
    exact_a, exact_b = _rational_or_none(a), _rational_or_none(b)
    if exact_a is not None and exact_a == exact_b and not (decimal_a and decimal_a.truncated):
        return True
    if decimal_a and decimal_a.places is not None and not (decimal_b and decimal_b.places is not None):
        return _decimal_states(decimal_a, b, exact_b)
    if decimal_b and decimal_b.places is not None and not (decimal_a and decimal_a.places is not None):
        return _decimal_states(decimal_b, a, exact_a)
    if exact_a is not None and exact_b is not None:
        return exact_a == exact_b
    symbols = sorted(free_symbols(a) | free_symbols(b))
    if not symbols:
        return _same_or_undefined(a, b)
    try:
        return all(_same_residue(a, b, values) for values in _residues(symbols))
    except (NotRational, ZeroDivisionError):
        return _same_on_reals(a, b, symbols)


def _rational_or_none(node: Node) -> Fraction | None:
    try:
        return rational(node)
    except (NotRational, ZeroDivisionError):
        return None


def _periodic(decimal: Number) -> Number:
    """0.333... and 0.1818... show their period; another truncated decimal stays what it is."""
    places = decimal.places or 0
    digits = str(abs(int(decimal.value * 10**places))).zfill(places)[-places:] if places > 0 else ""
    for period in range(1, len(digits) // 2 + 1):
        tail = digits[-period:]
        repeats = 1
        while digits.endswith(tail * (repeats + 1)):
            repeats += 1
        if repeats * period >= 3 and repeats >= 2:
            fixed = len(digits) - repeats * period
            whole = Fraction(int(abs(decimal.value) * 10**fixed), 10**fixed)
            value = whole + Fraction(int(tail), 10**fixed * (10**period - 1))
            return Number(value if decimal.value >= 0 else -value)
    return decimal


def _decimal_states(decimal: Number, other: Node, exact: Fraction | None) -> bool:
    """The documented rule: a decimal stands for a number that is no short decimal if that number, rounded to the stated
    places, is the decimal, and at least FEWEST_DIGITS significant digits (final zeros aside) are stated."""
    places = decimal.places or 0
    if exact is None and not decimal.truncated and not free_symbols(other) and _same_or_undefined(decimal, other):
        return True
    if exact is not None and (exact * 10**SHORT_DECIMAL).denominator == 1:
        return False  # equality was tested before
    digits = str(abs(int(decimal.value * Fraction(10) ** places))).strip("0")
    if len(digits) < FEWEST_DIGITS or free_symbols(other):
        return False
    step = Fraction(1, 10**places) if places >= 0 else Fraction(10**-places)
    if abs(places) > 1000:
        return False
    try:
        value = real_value(other, digits=max(30, places + 20))
    except Undefined:
        return False
    if value is None or mp.isinf(value):
        return False
    with mp.workdps(max(40, places + 30)):
        distance = value - mp.mpf(decimal.value.numerator) / decimal.value.denominator
        if decimal.truncated:
            outwards = distance if decimal.value >= 0 else -distance
            return bool(0 <= outwards < mp.mpf(step.numerator) / step.denominator)
        return bool(abs(distance) * 2 <= mp.mpf(step.numerator) / step.denominator)


def _same_or_undefined(a: Node, b: Node) -> bool:
    try:
        return same_value(a, b)
    except Undefined:
        return False


def _residues(symbols: list[str]) -> Iterator[dict[str, int]]:
    for trial in range(TRIALS):
        yield {
            name: pow(0x9E3779B97F4A7C15F39CC0605CEDC835 + trial, 7 + 2 * index, PRIME)
            for index, name in enumerate(symbols)
        }


def _same_residue(a: Node, b: Node, values: dict[str, int]) -> bool:
    return residue(a, values) == residue(b, values)


def _same_on_reals(a: Node, b: Node, symbols: list[str]) -> bool:
    """Equal at every sample point where both are real, and real at the same positive points."""
    compared = 0
    for trial, point in enumerate(REAL_POINTS):
        values = {
            name: point * Fraction(7 * index + 11, 11) + Fraction(trial * index, 17)
            for index, name in enumerate(symbols)
        }
        real_a, real_b = _defined_real(a, values), _defined_real(b, values)
        if real_a != real_b and point > 0:
            return False
        if real_a and real_b:
            if not same_value(a, b, values):
                return False
            compared += 1
    if compared >= 2:
        return True
    return all(_same_complex(a, b, symbols, point) for point in REAL_POINTS[:3])


def _defined_real(node: Node, values: dict[str, Fraction]) -> bool:
    try:
        return real_value(node, values) is not None
    except Undefined:
        return False


def _same_complex(a: Node, b: Node, symbols: list[str], point: Fraction) -> bool:
    values = {name: point + Fraction(index, 3) for index, name in enumerate(symbols)}
    try:
        return same_value(a, b, values)
    except Undefined:
        return False
