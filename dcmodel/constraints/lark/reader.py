"""From the text of a Lark grammar to its tree. What the reader does not know stays unread."""

from __future__ import annotations

import json
import re

from dcmodel.constraints import chars
from dcmodel.constraints.lark.syntax import (
    EMPTY,
    Atom,
    Definition,
    Expr,
    GrammarTree,
    Ref,
    Repeat,
    choice,
    seq,
)
from dcmodel.constraints.lark_scan import Token, is_terminal_name, statements, tokens_of
from dcmodel.constraints.regex_syntax import Alt, Cat, Loop, Node, OneOf, RegexSyntaxError, Text, parse_regex
from dcmodel.errors import UnsupportedConstraintError

MAX_DEPTH = 60
KNOWN_FLAGS = re.compile(r"\(\?(?!:|P<|<|s[:)])")
"""Groups with flags that change what letters mean."""


class UnknownSyntaxError(Exception):
    """Something that this reader does not know."""


def read_grammar(text: str) -> GrammarTree:
    """Read a grammar. Raises `UnknownSyntaxError` where not even its statements can be told apart."""
    tree = GrammarTree()
    for statement in statements(list(tokens_of(text))):
        _add(tree, statement, text)
    return tree


def _add(tree: GrammarTree, statement: list[Token], text: str) -> None:
    head = statement[0]
    if head.kind == "directive":
        if head.text not in ("%ignore", "%import", "%llguidance"):
            raise UnknownSyntaxError(head.text)
        tree.directives.append(_source(statement, text))
        tree.ignores = tree.ignores or head.text == "%ignore"
        if head.text == "%import":
            tree.imported.update(token.text for token in statement if token.kind == "name")
        return
    colon = next((i for i, token in enumerate(statement) if token.text == ":"), None)
    name = head.text.lstrip("!?")
    if head.kind != "name" or colon is None or name in tree.definitions:
        raise UnknownSyntaxError(head.text)
    body: Expr | None = None
    # A line that goes on begins with a bar.
    is_whole = all(token.text == "|" or not token.first for token in statement[1:])
    if colon == 1 and is_whole:
        try:
            body = _Reader(statement[2:], in_terminal=is_terminal_name(name)).whole()
        except (UnknownSyntaxError, RecursionError, IndexError):
            body = None
    tree.definitions[name] = Definition(name, body, tuple(statement))


def _source(statement: list[Token], text: str) -> str:
    last = statement[-1]
    return text[statement[0].position : last.position + len(last.text)]


class _Reader:
    """Reads the right side of a definition."""

    def __init__(self, tokens: list[Token], *, in_terminal: bool) -> None:
        self.tokens = tokens
        self.in_terminal = in_terminal
        self.at = 0
        self.depth = 0

    def whole(self) -> Expr:
        if self.ahead("|"):
            raise UnknownSyntaxError("|")
        expr = self.alternation()
        if self.at < len(self.tokens):
            raise UnknownSyntaxError(self.tokens[self.at].text)
        return expr

    def alternation(self) -> Expr:
        parts = [self.sequence()]
        while self.take("|"):
            parts.append(self.sequence())
        return choice(parts)

    def sequence(self) -> Expr:
        parts: list[Expr] = []
        while self.at < len(self.tokens) and self.tokens[self.at].text not in ("|", ")", "]", "->"):
            parts.append(self.quantified(self.atom()))
        if not self.in_terminal and self.take("->"):
            if self.tokens[self.at].kind != "name" or is_terminal_name(self.tokens[self.at].text):
                raise UnknownSyntaxError("->")
            self.at += 1
        return seq(parts)

    def atom(self) -> Expr:
        token = self.tokens[self.at]
        self.at += 1
        if token.kind == "string":
            return self.literal(token)
        if token.kind == "regex":
            return Atom(token.text, regex_node(token.text))
        if token.kind == "special" and not self.in_terminal:
            return Atom(token.text, OneOf(wide=False, chars=chars.SPECIAL), is_special=True)
        if token.kind == "name" and token.text[0] not in "!?" and not self.ahead("::", "{"):
            if self.in_terminal and not is_terminal_name(token.text):
                raise UnknownSyntaxError(token.text)
            return Ref(token.text)
        if token.text in ("(", "["):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise UnknownSyntaxError(token.text)
            expr = self.alternation()
            self.depth -= 1
            if not self.take(")" if token.text == "(" else "]"):
                raise UnknownSyntaxError(token.text)
            return Repeat(expr, 0, 1) if token.text == "[" else expr
        raise UnknownSyntaxError(token.text)

    def literal(self, token: Token) -> Expr:
        text, ignores_case = _string(token)
        if self.take(".."):
            if self.at >= len(self.tokens) or self.tokens[self.at].kind != "string":
                raise UnknownSyntaxError("..")
            last = self.tokens[self.at]
            self.at += 1
            end, end_ignores_case = _string(last)
            if len(text) != 1 or len(end) != 1 or ignores_case or end_ignores_case:
                raise UnknownSyntaxError("..")
            return Atom(
                f"{token.text}..{last.text}", OneOf(wide=text != end, chars=chars.char_range(text, end))
            )
        if not text:
            return EMPTY
        node: Node = Text(text)
        return Atom(token.text, _without_case(node) if ignores_case else node)

    def quantified(self, expr: Expr) -> Expr:
        for mark, low, high in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self.take(mark):
                return self.once(Repeat(expr, low, high))
        if self.take("~"):
            low = self.number()
            return self.once(Repeat(expr, low, self.number() if self.take("..") else low))
        if self.take("{"):
            low = self.number() if self.tokens[self.at].kind == "number" else 0
            top: int | None = low
            if self.take(","):
                top = (
                    self.number()
                    if self.at < len(self.tokens) and self.tokens[self.at].kind == "number"
                    else None
                )
            if not self.take("}"):
                raise UnknownSyntaxError("{")
            return self.once(Repeat(expr, low, top))
        return expr

    def once(self, expr: Repeat) -> Expr:
        if self.ahead("*", "+", "?", "~", "{"):
            raise UnknownSyntaxError("a quantifier of a quantifier")
        if expr.high is not None and (expr.high < expr.low or expr.high == 0):
            raise UnknownSyntaxError("a range without a number")
        return EMPTY if expr.body == EMPTY else expr

    def number(self) -> int:
        if self.at >= len(self.tokens) or self.tokens[self.at].kind != "number":
            raise UnknownSyntaxError("a count")
        self.at += 1
        return int(self.tokens[self.at - 1].text)

    def take(self, mark: str) -> bool:
        if self.ahead(mark):
            self.at += 1
            return True
        return False

    def ahead(self, *marks: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at].text in marks


def _string(token: Token) -> tuple[str, bool]:
    ignores_case = token.text.endswith("i")
    try:
        return json.loads(token.text.removesuffix("i")), ignores_case
    except ValueError:
        raise UnknownSyntaxError(token.text) from None


def regex_node(text: str) -> Node | None:
    """The shape of ``/.../flags``, or None where it cannot be told."""
    body, _, flags = text[1:].rpartition("/")
    if set(flags) - set("is") or KNOWN_FLAGS.search(body):
        return None
    try:
        node = parse_regex(body.replace("\\/", "/"))
    except (RegexSyntaxError, UnsupportedConstraintError):
        return None
    return _without_case(node) if "i" in flags else node


def _without_case(node: Node) -> Node:
    match node:
        case Text(text):
            return Cat(
                tuple(OneOf(wide=False, chars=chars.ignoring_case(chars.char_range(c, c))) for c in text)
            )
        case OneOf(wide, members):
            return OneOf(wide, chars.ignoring_case(members))
        case Cat(parts):
            return Cat(tuple(map(_without_case, parts)))
        case Alt(parts):
            return Alt(tuple(map(_without_case, parts)))
        case Loop(body, low, high):
            return Loop(_without_case(body), low, high)
