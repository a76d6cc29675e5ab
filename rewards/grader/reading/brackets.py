"""Brackets of every kind: grouping, tuples, intervals, sets, floors, bars, groups in braces, matrices."""

from fractions import Fraction

from rewards.grader.reading.token_reader import TokenReader
from rewards.grader.reading.tokens import Token
from rewards.grader.syntax_tree import (
    Apply,
    Bracketed,
    Listing,
    Matrix,
    Node,
    Number,
    Product,
    SetOf,
    Symbol,
    Unreadable,
    reciprocal,
)

OPENING = {"(": ")", "[": "]", r"\langle": r"\rangle", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", r"\{": r"\}"}


class BracketReader(TokenReader):
    """What stands between two delimiters."""

    def brackets(self) -> Node:
        """(...), [...], ]a,b[, \\{...\\}, floor, ceiling: grouping for one item, else a tuple, interval or set."""
        opening = self.advance().text
        if opening == r"\{" and self.token.text == r"\}":
            self.advance()
            return SetOf(())
        self.enter()
        outside = self.bars, self.in_set
        self.bars, self.in_set = 0, opening == r"\{"
        content = self.listing()
        self.bars, self.in_set = outside
        if opening == r"\{" and self.token.text in (":", "|", r"\mid"):
            self.advance()
            condition = self.listing()
            self.expect(r"\}")
            self.leave()
            return Apply("such that", (content, condition))
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
            elif self.token.text == r"\over":
                self.advance()
                node = Product((node, reciprocal(self.listing())))
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
