"""From tokens to a syntax tree: a recursive-descent parser for LaTeX and plain-text mathematics.

It reads the whole input or raises Unreadable: no prefix of an answer is ever taken for the answer.
"""

from fractions import Fraction

from rewards.grader.reading.atoms import AtomReader
from rewards.grader.reading.tokens import CURRENCIES, Token
from rewards.grader.syntax_tree import (
    RESIDUE,
    Apply,
    Congruence,
    Listing,
    Matrix,
    Node,
    Number,
    PlusMinus,
    Power,
    Product,
    Ratio,
    Relation,
    SetOperation,
    Sum,
    Symbol,
    Unit,
    Unreadable,
    negative,
    reciprocal,
)

RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    r"\lt": "<",
    r"\gt": ">",
    r"\le": "<=",
    r"\ge": ">=",
    r"\ne": "!=",
    r"\in": "in",
    r"\approx": "~",
    r"\simeq": "~",
    r"\sim": "~",
    r"\to": "=",
    r"\rightarrow": "=",
    r"\mapsto": "=",
    r"\equiv": "==",
    r"\cong": "==",
    r"\coloneqq": "=",
}
SET_OPERATIONS = {r"\cup": "union", r"\cap": "intersection", r"\setminus": "difference"}
TIMES = (r"\times", r"\cdot", "*", r"\ast")
DIVIDED = ("/", r"\div")
MODULO = (r"\bmod", r"\mod", "mod")
JOINTS = (",", ";", "or", "and")


def read_tokens(tokens: list[Token]) -> Node:
    """The tree of a whole answer. Raises Unreadable, Unsupported or TooLarge."""
    reader = LatexReader(tokens)
    node = reader.listing()
    if reader.token.text == r"\over":
        reader.advance()
        node = Product((node, reciprocal(reader.listing())))
    if reader.token.kind != "end":
        raise Unreadable(f"unexpected {reader.token.text!r}")
    return node


class LatexReader(AtomReader):
    """Precedence from loose to tight: listing, relation, set operation, sum, product, sign, power, atom."""

    def listing(self, closing: tuple[str, ...] = ()) -> Node:
        items = [self.relation()]
        joints = []
        while self.token.text in JOINTS and self.token.kind in ("sign", "word"):
            joint = "," if self.token.text == ";" else self.token.text
            self.advance()
            if joint == "," and self.token.kind == "word" and self.token.text in ("and", "or"):
                joint = self.token.text
                self.advance()
            if self.token.kind == "end":
                raise Unreadable("ends with a separator")
            joints.append(joint)
            items.append(self.relation())
        if not joints:
            return items[0]
        last = items[-1]
        if isinstance(last, Congruence) and last.left == RESIDUE:  # x = 1, 4 (mod 5)
            head = items[0].sides[0] if isinstance(items[0], Relation) else RESIDUE
            rights = [item.sides[1] if isinstance(item, Relation) else item for item in items[:-1]]
            items = [Congruence(head, right, last.modulus) for right in (*rights, last.right)]
        words = {joint for joint in joints if joint != ","}
        if len(words) > 1:
            raise Unreadable("mixes and with or")
        return Listing(tuple(items), words.pop() if words else ",")

    def relation(self) -> Node:
        sides = [self.set_operation()]
        operators = []
        while self.token.kind in ("sign", "command") and self.token.text in RELATIONS:
            operators.append(RELATIONS[self.token.text])
            self.advance()
            sides.append(self.set_operation())
        modulus = self.modulus()
        if modulus is not None and len(sides) <= 2 and set(operators) <= {"=", "=="}:
            return Congruence(sides[0] if operators else RESIDUE, sides[-1], modulus)
        if not operators:
            return sides[0]
        if operators == ["=="] and isinstance(sides[1], Apply) and sides[1].function == "mod":
            return Congruence(sides[0], *sides[1].arguments)
        return Relation(tuple(sides), tuple("=" if operator == "==" else operator for operator in operators))

    def modulus(self) -> Node | None:
        """`\\pmod{n}` or `(mod n)` after a congruence or a residue."""
        if self.token.text == r"\pmod":
            self.advance()
            return self.argument() if self.token.text == "{" else self.sum()
        if self.token.text == "(" and self.tokens[self.position + 1].text in MODULO:
            self.advance()
            self.advance()
            modulus = self.sum()
            self.expect(")")
            return modulus
        return None

    def remainder(self) -> Node:
        """`17 \\bmod 5`, `17 mod 5`."""
        node = self.sum()
        if self.token.text in MODULO:
            self.advance()
            node = Apply("mod", (node, self.argument() if self.token.text == "{" else self.sum()))
        return node

    def set_operation(self) -> Node:
        left = self.ratio()
        while self.token.text in SET_OPERATIONS or (self.token.text == "U" and self.union_letter()):
            operator = SET_OPERATIONS.get(self.token.text, "union")
            self.advance()
            left = SetOperation(operator, left, self.ratio())
        return left

    def union_letter(self) -> bool:
        """A capital U between two brackets is a union sign."""
        before, behind = self.tokens[self.position - 1], self.tokens[self.position + 1]
        return before.text in (")", "]", r"\}") and behind.text in ("(", "[", r"\{")

    def ratio(self) -> Node:
        parts = [self.remainder()]
        while not self.in_set and self.token.text in (":", r"\colon") and self.token.kind in ("sign", "command"):
            self.advance()
            parts.append(self.sum())
        return Ratio(tuple(parts)) if len(parts) > 1 else parts[0]

    def sum(self) -> Node:
        self.enter()
        terms = [self.product()]
        while self.token.kind in ("sign", "command") and self.token.text in ("+", "-", r"\pm", r"\mp"):
            sign = self.token.text
            self.advance()
            term = self.product()
            if sign == "-":
                term = negative(term)
            elif sign != "+":
                term = PlusMinus(term, flipped=sign == r"\mp")
            terms.append(term)
        self.leave()
        return terms[0] if len(terms) == 1 else Sum(tuple(terms))

    def product(self) -> Node:
        factors = [self.signed()]
        measured = 0  # factors of an amount with its unit already read: "5 ft" in "5 ft 6 in"
        amounts: list[Node] = []
        while True:
            text, kind = self.token.text, self.token.kind
            if text in TIMES and kind in ("sign", "command"):
                self.advance()
                factors.append(self.signed())
            elif (text in DIVIDED and kind in ("sign", "command")) or (kind == "word" and text == "per"):
                self.advance()
                factors.append(reciprocal(self.signed(in_denominator=True)))
            elif kind == "word" and text in ("squared", "cubed") and _is_unit(factors[-1]):
                self.advance()
                factors[-1] = Power(factors[-1], Number(Fraction(2 if text == "squared" else 3)))
            elif self.starts_factor():
                if kind in ("number", "truncated", "repeating") and isinstance(factors[-1], Number):
                    raise Unreadable("two numbers side by side")
                if kind == "number" and measured != len(factors) and _is_measure(factors[-1]):
                    amounts.append(Product(tuple(factors)))
                    factors, measured = [self.power()], 0
                    continue
                factors.append(self.power())
            else:
                break
        last = factors[0] if len(factors) == 1 else Product(tuple(factors))
        return Sum((*amounts, last)) if amounts else last

    def signed(self, in_denominator: bool = False) -> Node:
        self.enter()
        text = self.token.text
        node: Node
        if self.token.kind in ("sign", "command") and text in ("-", "+", r"\pm", r"\mp"):
            self.advance()
            operand = self.signed()
            node = operand if text == "+" else negative(operand) if text == "-" else PlusMinus(operand, text == r"\mp")
        elif text in (r"\neg", r"\lnot"):
            raise Unreadable("a logical formula")
        else:
            node = self.power()
        self.leave()
        return node

    def power(self) -> Node:
        base = self.postfix(self.atom())
        if self.token.text == "^" or (self.token.text == "*" and self.tokens[self.position + 1].text == "*"):
            if self.token.text == "*":
                self.advance()
            self.advance()
            if self.token.text in ("'", r"\prime"):
                raise Unreadable("a derivative")
            exponent = self.exponent()
            if isinstance(exponent, Symbol) and exponent.name == "T" and not isinstance(base, Symbol):
                return _transposed(base)
            base = self.postfix(Power(base, exponent))
        return base

    def exponent(self) -> Node:
        if self.token.text == "{":
            return self.argument()
        self.enter()
        sign = self.token.text
        if sign in ("-", "+"):
            self.advance()
        node = self.power()
        self.leave()
        return negative(node) if sign == "-" else node

    def starts_factor(self) -> bool:
        """Whether the next token can follow a factor without an operator."""
        token = self.token
        if token.kind in ("number", "letter", "function", "repeating", "truncated"):
            return not (token.text == "U" and self.union_letter())
        if token.kind == "word":
            return token.text not in ("or", "and", "mod", "per", "squared", "cubed")
        if token.kind == "sign":
            following = self.tokens[self.position + 1]
            if token.text == "[" and (following.kind == "end" or following.text in (")", ",", r"\cup", r"\cap", "]")):
                return False  # the French notation of an open end
            if token.text == "|" and self.in_set:
                return False
            return (
                token.text in "([{|" + "".join(CURRENCIES)
                and not (token.text == "|" and self.bars)
                and not (token.text == "(" and following.text in MODULO)
            )
        return token.kind == "command" and self.command_starts_atom(token.text)


def _is_unit(node: Node) -> bool:
    return isinstance(node, Unit) or (isinstance(node, Power) and isinstance(node.base, Unit))


def _is_measure(node: Node) -> bool:
    return isinstance(node, Unit) and bool(node.dimensions)


def _transposed(node: Node) -> Node:
    from rewards.grader.syntax_tree import Bracketed

    if isinstance(node, Bracketed):
        return Matrix(tuple((item,) for item in node.items))
    if isinstance(node, Matrix):
        return Matrix(tuple(zip(*node.rows, strict=True)))
    raise Unreadable("a transposed expression")
