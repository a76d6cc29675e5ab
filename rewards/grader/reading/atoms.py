"""The innermost layer of the parser: numbers, symbols, brackets, fractions, roots, functions, matrices, units."""

from fractions import Fraction

from rewards.grader.reading.brackets import OPENING
from rewards.grader.reading.functions import FunctionReader
from rewards.grader.reading.tokens import CURRENCIES, FUNCTIONS, repeating_value
from rewards.grader.syntax_tree import (
    Apply,
    Based,
    Node,
    Number,
    Power,
    Product,
    SetOf,
    Symbol,
    Unit,
    Unreadable,
    Unsupported,
    reciprocal,
)
from rewards.grader.units import CURRENCY_SIGNS, DEGREE, MULTIPLIERS, PERCENT, UNITS, word_unit

CONSTANT_COMMANDS: dict[str, Node] = {
    r"\pi": Symbol("pi"),
    r"\infty": Symbol("oo"),
    r"\emptyset": SetOf(()),
    r"\imath": Symbol("i"),
    r"\jmath": Symbol("j"),
    r"\ell": Symbol("ell"),
}
GREEK = frozenset(
    str.split(
        r"\alpha \beta \gamma \delta \epsilon \varepsilon \zeta \eta \theta \vartheta \iota \kappa \lambda \mu "
        r"\nu \xi \rho \varrho \sigma \tau \upsilon \phi \varphi \chi \psi \omega \Gamma \Delta \Theta \Lambda "
        r"\Xi \Pi \Sigma \Upsilon \Phi \Psi \Omega \hbar"
    )
)
NUMBER_SETS = ("R", "Z", "N", "Q", "C")
ACCENTS = (r"\vec", r"\hat", r"\bar", r"\overline", r"\tilde", r"\widehat", r"\overrightarrow", r"\underline", r"\dot")
UNSUPPORTED = frozenset(str.split(r"\int \iint \oint \sum \prod \lim \limsup \liminf \partial \nabla \forall \exists"))
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
        r"\angle",
        r"\circ",
        r"\operatorname",
    )
)


class AtomReader(FunctionReader):
    """Numbers, symbols, words and commands."""

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
        if token.text.isdigit() and (mixed := self.mixed_fraction(number)) is not None:
            return mixed
        return number

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
        if text in (r"\angle", r"\measuredangle", r"\triangle"):
            figure = text[1:].removeprefix("measured") + " "
            while self.token.kind == "letter" or (self.token.kind == "word" and self.token.text.isupper()):
                figure += self.advance().text
            return Symbol(figure)
        if text == r"\%":
            return PERCENT
        if text in (r"\degree", r"\circ"):
            return DEGREE
        if text in ACCENTS:
            below = self.argument()
            if isinstance(below, Number) and text != r"\underline":
                raise Unreadable("an accent over a number")
            return Apply("accent", (below,)) if text in (r"\overline", r"\bar") else below
        if text == r"\operatorname":
            return self.function("".join(self.subscript_text().split()))
        if text in UNSUPPORTED:
            raise Unsupported(f"{text} is left to the library")
        if text[1:] in FUNCTIONS:
            return self.function(text[1:])
        raise Unreadable(f"unknown command {text}")

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
