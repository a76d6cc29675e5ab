"""Units of measure and counted things: their names, dimensions and exact factors."""

from fractions import Fraction

from rewards.grader.syntax_tree import Unit, Unreadable


def _table(dimensions: dict[str, int], *entries: tuple[str, str | int]) -> dict[str, Unit]:
    powers = tuple(sorted((name, Fraction(power)) for name, power in dimensions.items()))
    return {name: Unit(powers, Fraction(factor)) for names, factor in entries for name in names.split()}


LENGTH = _table(
    {"length": 1},
    ("m meter meters metre metres", 1),
    ("cm centimeter centimeters centimetre centimetres", "1/100"),
    ("mm millimeter millimeters millimetre millimetres", "1/1000"),
    ("km kilometer kilometers kilometre kilometres", 1000),
    ("nm nanometer nanometers", "1/1000000000"),
    ("in inch inches", "0.0254"),
    ("ft foot feet", "0.3048"),
    ("yd yard yards", "0.9144"),
    ("mi mile miles", "1609.344"),
)
TIME = _table(
    {"time": 1},
    ("s sec secs second seconds", 1),
    ("ms millisecond milliseconds", "1/1000"),
    ("min mins minute minutes", 60),
    ("h hr hrs hour hours", 3600),
    ("day days", 86400),
    ("week weeks", 604800),
)
MASS = _table(
    {"mass": 1},
    ("g gram grams", 1),
    ("kg kilogram kilograms", 1000),
    ("mg milligram milligrams", "1/1000"),
    ("tonne tonnes", 1000000),
    ("lb lbs pound pounds", "453.59237"),
    ("oz ounce ounces", "28.349523125"),
)
VOLUME = _table(
    {"length": 3},
    ("L l liter liters litre litres", "1/1000"),
    ("mL ml milliliter milliliters millilitre millilitres cc", "1/1000000"),
    ("gal gallon gallons", "0.003785411784"),
    ("qt quart quarts", "0.000946352946"),
    ("pint pints", "0.000473176473"),
    ("cup cups", "0.0002365882365"),
)
OTHERS = {
    **_table({"month": 1}, ("month months", 1), ("yr year years", 12)),
    **_table({"USD": 1}, ("dollar dollars USD usd buck bucks", 1), ("cent cents ¢", "1/100")),
    **_table({"EUR": 1}, ("euro euros EUR", 1)),
    **_table({"GBP": 1}, ("GBP sterling", 1), ("pence", "1/100")),
    **_table({"JPY": 1}, ("yen JPY", 1)),
    **_table({"INR": 1}, ("rupee rupees INR", 1)),
    **_table({"CNY": 1}, ("yuan CNY RMB", 1)),
    **_table({"degree": 1}, ("degree degrees deg degs", 1), ("arcminute arcminutes", "1/60")),
    **_table({"radian": 1}, ("radian radians rad rads", 1)),
    **_table({"celsius": 1}, ("celsius Celsius", 1)),
    **_table({"fahrenheit": 1}, ("fahrenheit Fahrenheit", 1)),
    **_table({"kelvin": 1}, ("K kelvin kelvins Kelvin", 1)),
    **_table({"percent": 1}, ("percent percents percentage pct", 1)),
    **_table({"current": 1}, ("A amp amps ampere amperes", 1)),
    **_table({"length": 1, "time": -1}, ("mph", "0.44704"), ("kph kmh kmph", "5/18")),
    **_table({"length": 1, "mass": 1, "time": -2}, ("N newton newtons", 1000)),
    **_table({"length": 2, "mass": 1, "time": -2}, ("J joule joules", 1000), ("kJ kilojoules", 1000000)),
    **_table({"length": 2, "mass": 1, "time": -3}, ("W watt watts", 1000), ("kW kilowatts", 1000000)),
    **_table({"length": -1, "mass": 1, "time": -2}, ("Pa pascal pascals", 1000), ("kPa", 1000000)),
    **_table({"time": -1}, ("Hz hertz", 1)),
    **_table({"voltage": 1}, ("V volt volts", 1)),
    **_table({"resistance": 1}, ("ohm ohms Ω", 1)),
    **_table({"substance": 1}, ("mol mole moles", 1)),
    **_table({"length": 2}, ("hectare hectares ha", 10000), ("acre acres", "4046.8564224")),
}
UNITS: dict[str, Unit] = {**LENGTH, **TIME, **MASS, **VOLUME, **OTHERS}
# Outside \text{} a single letter is a variable, and these short words are something else.
BARE_UNITS = frozenset(name for name in UNITS if len(name) > 1) - {"in", "min", "deg", "ha", "cc", "cup", "day", "mi"}
BARE_UNITS |= {"deg"}

DEGREE, PERCENT = UNITS["degree"], UNITS["percent"]
CURRENCY_SIGNS = {"$": "dollar", "¢": "cent", "€": "euro", "£": "GBP", "¥": "yen", "₹": "rupee"}
MULTIPLIERS = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
# Words that say nothing about the amount.
EMPTY_WORDS = frozenset(
    str.split(
        "unit units u the a an of total in all exactly only just each every different distinct possible real "
        "solution solutions value values respectively long tall wide high deep old away apart together "
        "altogether"
    )
)
# Words that change the meaning of the number beside them: such a text is not a number with a unit.
MEANINGFUL_WORDS = frozenset(
    str.split(
        "not no never isn't neither nor except if unless when where for than less more greater fewer least "
        "most at over under between plus minus times divided squared cubed half third quarter twice double "
        "triple factorial mod modulo to from until st nd rd th up down or and but both either none undefined infinite "
        "infinity approximately about roughly around almost nearly base negative sqrt root "
        "hundredths tenths thousandths score impossible wrong incorrect extraneous rejected "
        "maybe perhaps possibly might could cannot can't unlikely unsure unclear unknown guess"
    )
)


def word_unit(word: str, prose: bool) -> Unit | None:
    """The unit that a word names; an unknown word inside prose is the name of what is counted.

    Raises Unreadable for a word that changes the meaning of the number.
    """
    if word in UNITS and (prose or word in BARE_UNITS):
        return UNITS[word]
    lower = word.lower()
    if len(lower) > 2 and lower in UNITS:
        return UNITS[lower]
    if lower in EMPTY_WORDS:
        return Unit()
    if lower in MEANINGFUL_WORDS:
        raise Unreadable(f"the word {word!r} changes the meaning of the number")
    return Unit(words=frozenset((_singular(lower),))) if len(lower) > 1 else None


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def times(left: Unit, right: Unit) -> Unit:
    powers = dict(left.dimensions)
    for name, power in right.dimensions:
        powers[name] = powers.get(name, Fraction(0)) + power
    dimensions = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(dimensions, left.factor * right.factor, left.words | right.words)


def to_power(unit: Unit, power: Fraction) -> Unit:
    """Raises Unreadable for a power that no unit has."""
    if power.denominator != 1 or abs(power) > 12:
        raise Unreadable(f"unit to the power {power}")
    dimensions = tuple((name, exponent * power) for name, exponent in unit.dimensions if power)
    return Unit(dimensions, unit.factor ** int(power), unit.words)
