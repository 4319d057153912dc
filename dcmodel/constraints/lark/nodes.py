"""Expressions of a grammar as shapes of text, with the names in them resolved."""

from __future__ import annotations

from dcmodel.constraints.lark.reader import regex_node
from dcmodel.constraints.lark.syntax import Atom, Choice, Expr, GrammarTree, Ref, Repeat, Seq
from dcmodel.constraints.regex_syntax import Alt, Cat, Loop, Node, OneOf, Text

COMMON = {
    "DIGIT": r"[0-9]",
    "HEXDIGIT": r"[a-fA-F0-9]",
    "INT": r"[0-9]+",
    "SIGNED_INT": r"[+-]?[0-9]+",
    "DECIMAL": r"[0-9]+\.[0-9]*|\.[0-9]+",
    "FLOAT": r"[0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "NUMBER": r"[0-9]+([.][0-9]*)?([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?",
    "SIGNED_NUMBER": r"[+-]?([0-9]+([.][0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "ESCAPED_STRING": r'"([^"\\]|\\.)*"',
    "LCASE_LETTER": r"[a-z]",
    "UCASE_LETTER": r"[A-Z]",
    "LETTER": r"[a-zA-Z]",
    "WORD": r"[a-zA-Z]+",
    "CNAME": r"[_a-zA-Z][_a-zA-Z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
}
"""Lark's own terminals, at least as wide as they are."""
MAX_SIZE = 1_000_000


class UnknownNodeError(Exception):
    """An expression, or what it names, cannot be told."""


class Nodes:
    """Resolves names. Deep chains of names raise `RecursionError`, and recursion does too."""

    def __init__(self, tree: GrammarTree) -> None:
        self._tree = tree
        self._named: dict[str, Node] = {}
        self._sizes: dict[str, int] = {}

    def of(self, expr: Expr) -> Node:
        """The shape of an expression. Raises `UnknownNodeError`."""
        match expr:
            case Atom(_, node):
                if node is None:
                    raise UnknownNodeError(expr.text)
                return node
            case Ref(name):
                if name not in self._named:
                    self._named[name] = self._definition(name)
                return self._named[name]
            case Seq(parts):
                return Cat(tuple(map(self.of, parts)))
            case Choice(parts):
                return Alt(tuple(map(self.of, parts)))
            case Repeat(body, low, high):
                return Loop(self.of(body), low, high)

    def size(self, expr: Expr) -> int:
        """Characters of an expression when all is written out, up to `MAX_SIZE`."""
        match expr:
            case Atom(text, node):
                return len(text) if node is None else min(node_size(node), MAX_SIZE)
            case Ref(name):
                if name not in self._sizes:
                    body = self._tree.body(name)
                    self._sizes[name] = 10 if body is None else self.size(body)
                return self._sizes[name]
            case Seq(parts) | Choice(parts):
                return min(sum(map(self.size, parts)), MAX_SIZE)
            case Repeat(body, low, high):
                return min(self.size(body) * max(low, high or 1), MAX_SIZE)

    def _definition(self, name: str) -> Node:
        body = self._tree.body(name)
        if body is not None:
            return self.of(body)
        if name in self._tree.imported and name in COMMON:
            node = regex_node(f"/{COMMON[name]}/")
            if node is not None:
                return node
        raise UnknownNodeError(name)


def node_size(node: Node) -> int:
    """Characters of a node when its repeats are written out."""
    match node:
        case Text(text):
            return len(text)
        case OneOf():
            return 1
        case Cat(parts) | Alt(parts):
            return sum(map(node_size, parts))
        case Loop(body, low, high):
            return node_size(body) * max(low, high or 1)


def has_loop(node: Node) -> bool:
    """Whether some part of it may be read again."""
    match node:
        case Cat(parts) | Alt(parts):
            return any(map(has_loop, parts))
        case Loop(body, _, high):
            return high is None or high > 1 or has_loop(body)
    return False


def is_nullable(node: Node) -> bool:
    """Whether the empty text may be one of its texts."""
    match node:
        case Text(text):
            return not text
        case OneOf():
            return False
        case Cat(parts):
            return all(map(is_nullable, parts))
        case Alt(parts):
            return any(map(is_nullable, parts))
        case Loop(body, low, _):
            return low == 0 or is_nullable(body)
