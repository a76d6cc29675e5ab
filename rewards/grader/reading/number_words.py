"""Numbers that answers spell as words."""

SMALL = str.split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
BASES = {name: number for number, name in enumerate(SMALL) if number <= 12 or number == 16}  # of numeral systems
