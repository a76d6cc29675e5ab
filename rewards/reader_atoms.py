"""The innermost layer of the parser: numbers, symbols, brackets, fractions, roots, functions, matrices, units."""

from fractions import Fraction
from typing import TYPE_CHECKING

from rewards.latex_tokens import CURRENCIES, FUNCTIONS, Token, repeating_value
from rewards.syntax_tree import (
    ONE,
    Apply,
    Based,
    Bracketed,
    Matrix,
    Node,
    Number,
    Power,
    Product,
    SetOf,
    Sum,
    Symbol,
    TooLarge,
    Unit,
    Unreadable,
    Unsupported,
    reciprocal,
)
from rewards.units import CURRENCY_SIGNS, DEGREE, MULTIPLIERS, PERCENT, UNITS, word_unit

DEEPEST = 120  # nested calls of sum, sign and exponent
CONSTANT_COMMANDS = {
    r"\pi": Symbol("pi"),
    r"\infty": Symbol("oo"),
    r"\emptyset": SetOf(()),
    r"\imath": Symbol("i"),
    r"\jmath": Symbol("j"),
    r"\ell": Symbol("ell"),
}
GREEK = frozenset(
    [
        r"\alpha",
        r"\beta",
        r"\gamma",
        r"\delta",
        r"\epsilon",
        r"\varepsilon",
        r"\zeta",
        r"\eta",
        r"\theta",
        r"\vartheta",
        r"\iota",
        r"\kappa",
        r"\lambda",
        r"\mu",
        r"\nu",
        r"\xi",
        r"\rho",
        r"\varrho",
        r"\sigma",
        r"\tau",
        r"\upsilon",
        r"\phi",
        r"\varphi",
        r"\chi",
        r"\psi",
        r"\omega",
        r"\Gamma",
        r"\Delta",
        r"\Theta",
        r"\Lambda",
        r"\Xi",
        r"\Pi",
        r"\Sigma",
        r"\Upsilon",
        r"\Phi",
        r"\Psi",
        r"\Omega",
        r"\hbar",
    ]
)
NUMBER_SETS = ("R", "Z", "N", "Q", "C")
ACCENTS = (r"\vec", r"\hat", r"\bar", r"\overline", r"\tilde", r"\widehat", r"\overrightarrow", r"\underline", r"\dot")
UNSUPPORTED = frozenset(
    [
        r"\int",
        r"\iint",
        r"\oint",
        r"\sum",
        r"\prod",
        r"\lim",
        r"\limsup",
        r"\liminf",
        r"\partial",
        r"\nabla",
        r"\forall",
        r"\exists",
    ]
)
ARC = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "arsinh": "arcsinh", "arcosh": "arccosh"}
ARC |= {"artanh": "arctanh"}
OPENING = {"(": ")", "[": "]", r"\langle": r"\rangle", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", r"\{": r"\}"}
_STARTS = frozenset(
    (
        r"\frac",
        r"\sqrt",
        r"\binom",
        r"\begin",
        r"\mathbb",
        r"\boxed",
        r"\|",
        r"\$",
        r"\%",
        r"\degree",
        r"\circ",
        r"\operatorname",
    )
)


class AtomReader:
    """State of the parser, and everything that binds tighter than a power."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0

    if TYPE_CHECKING:

        def listing(self) -> Node: ...
        def relation(self) -> Node: ...
        def sum(self) -> Node: ...
        def power(self) -> Node: ...
        def exponent(self) -> Node: ...
        def starts_factor(self) -> bool: ...

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    def advance(self) -> Token:
        token = self.token
        if token.kind == "end":
            raise Unreadable("ends too early")
        self.position += 1
        return token

    def expect(self, *texts: str) -> str:
        if self.token.text not in texts or self.token.kind == "end":
            raise Unreadable(f"expected {' or '.join(texts)} at {self.token.text!r}")
        return self.advance().text

    def enter(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise TooLarge("nested too deeply")

    def leave(self) -> None:
        self.depth -= 1

    def command_starts_atom(self, text: str) -> bool:
        return (
            text in CONSTANT_COMMANDS
            or text in GREEK
            or text in _STARTS
            or text in ACCENTS
            or text in (r"\{", r"\langle", r"\lfloor", r"\lceil")
            or text[1:] in FUNCTIONS
        )

    def atom(self) -> Node:
        token = self.token
        if token.kind in ("number", "truncated", "repeating"):
            return self.number()
        if token.kind == "letter":
            self.advance()
            return self.subscripted(token.text)
        if token.kind == "word":
            return self.word()
        if token.kind == "function":
            self.advance()
            return self.function(token.text)
        if token.text in OPENING or token.text == "]":
            return self.brackets()
        if token.text == "{":
            return self.argument()
        if token.text in ("|", r"\|"):
            return self.bars_around()
        if token.text in CURRENCIES or token.text == r"\$":
            self.advance()
            unit = UNITS[CURRENCY_SIGNS[token.text[-1]]]
            if self.starts_factor() and self.token.kind != "word":
                amount = self.power()
                if self.token.kind == "word" and self.token.text in MULTIPLIERS:
                    amount = Product((amount, self.atom()))
                return Product((amount, unit))
            return unit
        if token.kind == "command":
            return self.command()
        raise Unreadable(f"unexpected {token.text or 'end'!r}")

    def number(self) -> Node:
        token = self.advance()
        if token.kind == "repeating":
            return Number(repeating_value(token.text))
        value = Fraction(token.text.rstrip("."))
        mantissa, _, exponent = token.text.lower().partition("e")
        places = len(mantissa.partition(".")[2]) - int(exponent or 0) if "." in mantissa.rstrip(".") else None
        number = Number(value, places, truncated=token.kind == "truncated")
        if self.token.text == "_" and token.kind == "number":
            return self.based(token.text)
        mixed = self.mixed_fraction(number) if token.text.isdigit() else None
        return mixed or number

    def mixed_fraction(self, whole: Number) -> Node | None:
        """1\\frac{1}{2} or `1 1/2`: a whole number and a proper fraction of plain numbers."""
        start = self.position
        try:
            if self.token.text == r"\frac":
                self.advance()
                above, below = self.argument(), self.argument()
            elif self.token.kind == "number" and self.token.after_space:
                above = self.plain_integer()
                self.expect("/")
                below = self.plain_integer()
            else:
                return None
        except Unreadable:
            self.position = start
            return None
        if (
            isinstance(above, Number)
            and isinstance(below, Number)
            and above.places is None
            and below.places is None
            and 0 < above.value < below.value
        ):
            return Number(whole.value + above.value / below.value)
        self.position = start
        return None

    def plain_integer(self) -> Node:
        if self.token.kind != "number" or not self.token.text.isdigit():
            raise Unreadable("not an integer")
        return Number(Fraction(self.advance().text))

    def based(self, digits: str) -> Node:
        """Digits with a subscript: a number in that base."""
        self.advance()
        base = self.subscript_text()
        if (
            not base.isdigit()
            or not digits.isdigit()
            or not 2 <= int(base) <= 36
            or any(int(d) >= int(base) for d in digits)
        ):
            raise Unreadable(f"not a number in base {base}")
        return Number(Fraction(digits)) if int(base) == 10 else Based(digits.lstrip("0") or "0", int(base))

    def word(self) -> Node:
        token = self.advance()
        text = token.text
        if text in MULTIPLIERS:
            return Number(Fraction(MULTIPLIERS[text]))
        if text in ("square", "sq", "cubic", "cu"):
            if self.token.text == ".":
                self.advance()
            unit = self.atom()
            return Power(unit, Number(Fraction(2 if text.startswith("sq") else 3))) if unit != Unit() else unit
        unit_read = word_unit(text, token.prose or len(text) > 1)
        if unit_read is None:
            return self.subscripted(text)
        if self.token.text == "." and self.token.kind == "sign":
            self.advance()  # an abbreviation
        return unit_read

    def subscripted(self, name: str) -> Node:
        """A variable with subscript and primes; they are part of its name."""
        if self.token.text == "_":
            self.advance()
            name = f"{name}_{self.subscript_text()}"
        while self.token.text in ("'", r"\prime"):
            self.advance()
            name += "'"
        return Symbol(name)

    def subscript_text(self) -> str:
        """The text of a subscript without spaces and braces."""
        if self.token.text != "{":
            return self.advance().text
        depth, parts = 0, []
        while True:
            token = self.advance()
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                break
            parts.append(token.text)
        return _NUMBER_NAMES.get("".join(parts[1:]).lower(), "".join(parts[1:]))

    def argument(self) -> Node:
        """What a command takes: a group in braces, or one token (of a number, one digit)."""
        token = self.token
        if token.text == "{":
            self.advance()
            if self.token.text == "}":
                raise Unreadable("an empty group")
            bars, self.bars = self.bars, 0
            node = self.listing()
            self.bars = bars
            if self.token.text == r"\choose":
                self.advance()
                node = Apply("binomial", (node, self.listing()))
            self.expect("}")
            return node
        if token.kind == "number" and token.text.isdigit():
            if len(token.text) > 1:
                self.tokens[self.position] = Token("number", token.text[1:], token.prose, False)
            else:
                self.advance()
            return Number(Fraction(token.text[0]))
        if token.kind in ("letter", "command"):
            self.advance() if token.kind == "letter" else None
            return Symbol(token.text) if token.kind == "letter" else self.atom()
        raise Unreadable(f"no argument at {token.text!r}")

    def command(self) -> Node:
        text = self.advance().text
        if text in CONSTANT_COMMANDS:
            return CONSTANT_COMMANDS[text]
        if text in GREEK:
            return self.subscripted(text[1:])
        if text == r"\frac":
            above = self.argument()
            return Product((above, reciprocal(self.argument())))
        if text == r"\sqrt":
            return self.root()
        if text == r"\binom":
            upper = self.argument()
            return Apply("binomial", (upper, self.argument()))
        if text == r"\begin":
            return self.matrix()
        if text in (r"\mathbb", r"\mathbf"):
            name = self.argument()
            if isinstance(name, Symbol) and name.name in NUMBER_SETS:
                return Symbol("set " + name.name)
            raise Unreadable("an unknown set")
        if text == r"\%":
            return PERCENT
        if text in (r"\degree", r"\circ"):
            return DEGREE
        if text in ACCENTS:
            return Apply("accent", (self.argument(),)) if text in (r"\overline", r"\bar") else self.argument()
        if text == r"\operatorname":
            return self.function("".join(self.subscript_text().split()))
        if text in UNSUPPORTED:
            raise Unsupported(f"{text} is left to the library")
        if text[1:] in FUNCTIONS:
            return self.function(text[1:])
        raise Unreadable(f"unknown command {text}")

    def root(self) -> Node:
        index: Node = Number(Fraction(2))
        if self.token.text == "[":
            self.advance()
            index = self.sum()
            self.expect("]")
        if self.token.kind in ("number", "repeating", "truncated"):
            radicand: Node = Number(Fraction(self.advance().text))  # \sqrt10 means the root of 10
        elif self.token.text == "(":
            radicand = self.brackets()
        else:
            radicand = self.argument() if self.token.kind != "sign" or self.token.text == "{" else self.power()
        return Apply("root", (radicand, index))

    def function(self, name: str) -> Node:
        """A function with its power, base and argument; without brackets the argument is the product that follows."""
        name = ARC.get(name, name)
        if name == "sqrt":
            return self.root()
        base: Node | None = None
        power: Node | None = None
        while self.token.text in ("_", "^"):
            if self.advance().text == "_":
                base = self.argument_or_number()
            else:
                power = self.exponent()
        argument = self.function_argument()
        if name == "cbrt":
            result: Node = Apply("root", (argument[0], Number(Fraction(3))))
        elif name in ("log", "lg", "ln"):
            if len(argument) == 2 and name == "log":
                argument, base = argument[:1], argument[1]
            base = base or (Symbol("e") if name == "ln" else Number(Fraction(10)))
            result = Apply("log", (argument[0], base))
        elif name == "exp":
            result = Power(Symbol("e"), argument[0])
        elif power == Number(Fraction(-1)) or power == Product((Number(Fraction(-1)), ONE)):
            if name not in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"):
                raise Unreadable(f"the inverse of {name}")
            return Apply("arc" + name, argument)
        else:
            result = Apply(name, argument)
        return Power(result, power) if power is not None else result

    def argument_or_number(self) -> Node:
        if self.token.kind == "number":
            return Number(Fraction(self.advance().text))
        return self.argument()

    def function_argument(self) -> tuple[Node, ...]:
        if self.token.text == "{":
            return (self.argument(),)
        if self.token.text == "(":
            node = self.brackets()
            node = self.postfix(node) if not isinstance(node, Bracketed) else node
            return node.items if isinstance(node, Bracketed) else (node,)
        factors: list[Node] = []
        negated = self.token.text == "-"
        if negated:
            self.advance()
        while (self.token.kind != "function" and self.token.text[1:] not in FUNCTIONS) or not factors:
            if factors and not (self.starts_factor() and self.token.text != "("):
                break
            factors.append(self.power())
            while self.token.text == "/" and self.tokens[self.position + 1].kind == "number":
                self.advance()
                factors.append(reciprocal(self.power()))
        product: Node = factors[0] if len(factors) == 1 else Product(tuple(factors))
        return (Product((Number(Fraction(-1)), product)) if negated else product,)

    def brackets(self) -> Node:
        """(...), [...], ]a,b[, \\{...\\}, floor, ceiling: grouping for one item, else a tuple, interval or set."""
        opening = self.advance().text
        if opening == r"\{" and self.token.text == r"\}":
            self.advance()
            return SetOf(())
        self.enter()
        bars, self.bars = self.bars, 0
        from rewards.syntax_tree import Listing

        content = self.listing()
        if opening == r"\{" and self.token.text in (":", "|", r"\mid"):
            self.advance()
            condition = self.listing()
            self.expect(r"\}")
            content = Apply("such that", (content, condition))
            self.bars = bars
            self.leave()
            return content
        self.bars = bars
        self.leave()
        items = content.items if isinstance(content, Listing) and content.joint == "," else (content,)
        if opening in (r"\lfloor", r"\lceil"):
            self.expect(OPENING[opening])
            return Apply("floor" if opening == r"\lfloor" else "ceil", (content,))
        if opening == r"\{":
            self.expect(r"\}")
            return SetOf(items)
        if opening == r"\langle":
            self.expect(r"\rangle", ">")
            return Bracketed("(", ")", items)
        closing = self.expect(")", "]", "[")
        if opening == "]" or closing == "[":  # the French notation for open ends
            opening, closing = {"]": "("}.get(opening, opening), {"[": ")"}.get(closing, closing)
        elif len(items) == 1 and (opening, closing) in (("(", ")"), ("[", "]")):
            single = items[0]
            if opening == "[" and isinstance(single, Bracketed):
                return Bracketed("[", "]", items)
            return single
        if len(items) == 1:
            raise Unreadable("brackets that do not match")
        return Bracketed(opening, closing, items)

    def bars_around(self) -> Node:
        opening = self.advance().text
        self.bars += 1
        self.enter()
        content = self.sum()
        self.leave()
        self.bars -= 1
        self.expect(opening)
        return Apply("abs" if opening == "|" else "norm", (content,))

    def postfix(self, node: Node) -> Node:
        while True:
            text = self.token.text
            if text == "!" and self.token.kind == "sign":
                self.advance()
                double = self.token.text == "!"
                if double:
                    self.advance()
                node = Apply("double factorial" if double else "factorial", (node,))
            elif text in ("%", r"\%"):
                self.advance()
                node = Product((node, PERCENT))
            elif text == r"\degree" or (text == r"\circ" and self.token.kind == "command"):
                self.advance()
                scale = self.token
                if scale.text in ("C", "F") and scale.kind in ("letter", "word"):
                    self.advance()
                    node = Product((node, UNITS["celsius" if scale.text == "C" else "fahrenheit"]))
                else:
                    node = Product((node, DEGREE))
            elif text == "_" and isinstance(node, Number) and node.value.denominator == 1:
                node = self.based(str(node.value))
            else:
                return node

    def matrix(self) -> Node:
        name = self.subscript_text()
        if name not in ("matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "smallmatrix", "array", "psmallmatrix"):
            raise Unreadable(f"environment {name}")
        if name == "array" and self.token.text == "{":
            self.subscript_text()
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while True:
            row.append(self.relation())
            separator = self.expect("&", r"\\", r"\end")
            if separator == "&":
                continue
            rows.append(tuple(row))
            row = []
            if separator == r"\\" and self.token.text == r"\end":
                separator = self.advance().text
            if separator == r"\end":
                break
        if self.subscript_text() != name or len({len(entries) for entries in rows}) != 1:
            raise Unreadable("a broken matrix")
        return Apply("det", (Matrix(tuple(rows)),)) if name == "vmatrix" else Matrix(tuple(rows))


_NUMBER_NAMES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "twelve": "12",
    "sixteen": "16",
}
_ = Sum
