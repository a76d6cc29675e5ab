"""State of the parser: the tokens, where it is, and how deep."""

from rewards.grader.reading.number_words import BASES
from rewards.grader.reading.tokens import Token
from rewards.grader.syntax_tree import Node, TooLarge, Unreadable

DEEPEST = 120  # nested calls of sum, sign and exponent


class TokenReader:
    """Walks over the tokens. The layers of the grammar are methods of its subclasses, loosest last."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0
        self.in_set = False  # directly inside \{...\}, where : and | mean such that

    def listing(self) -> Node:
        raise NotImplementedError

    def relation(self) -> Node:
        raise NotImplementedError

    def sum(self) -> Node:
        raise NotImplementedError

    def power(self) -> Node:
        raise NotImplementedError

    def exponent(self) -> Node:
        raise NotImplementedError

    def postfix(self, node: Node) -> Node:
        raise NotImplementedError

    def atom(self) -> Node:
        raise NotImplementedError

    def starts_factor(self) -> bool:
        raise NotImplementedError

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
        name = "".join(parts[1:])
        return str(BASES.get(name.lower(), name))
