"""Roots and functions: with braces, with brackets, or applied to the product that follows."""

from fractions import Fraction

from rewards.grader.reading.brackets import BracketReader
from rewards.grader.reading.tokens import FUNCTIONS
from rewards.grader.syntax_tree import (
    ONE,
    Apply,
    Bracketed,
    Node,
    Number,
    Power,
    Product,
    Symbol,
    Unreadable,
    reciprocal,
)

ARC = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "arsinh": "arcsinh", "arcosh": "arccosh"}
ARC |= {"artanh": "arctanh"}


class FunctionReader(BracketReader):
    """A function, its power, its base, its argument."""

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
                base, argument = argument[1], (argument[0],)
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
