"""What a Lark grammar's text holds that matters before it is compiled; no check of its syntax.

The dialect is llguidance's. Whatever this reader does not know makes the grammar one that must not
force text, which is always safe.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dcmodel.constraints.forced_text import forced_text
from dcmodel.constraints.regex_syntax import (
    EMPTY,
    WIDE,
    Alt,
    Cat,
    Loop,
    Node,
    RegexSyntaxError,
    Text,
    parse_regex,
)
from dcmodel.errors import UnsupportedConstraintError

TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|\#[^\n]*)
    |(?P<string>"(?:\\.|[^"\\\n])*"i?)
    |(?P<regex>/(?!/)(?:\\.|[^/\\\n])+/[imslux]*)
    |(?P<special><[^<>\s]+>)
    |(?P<name>[!?]?_?[A-Za-z][\w-]*)
    |(?P<number>\d+)
    |(?P<directive>%[a-z]+)
    |(?P<newline>\n)
    |(?P<space>[^\S\n]+)
    |(?P<operator>\.\.|->|::|.)""",
    re.VERBOSE,
)
BLOCKED_ATTRIBUTES = frozenset({"max_tokens", "stop", "stop_capture", "temperature"})
MAX_DEPTH = 60
MAX_PARTS = 30_000
"""Larger terminals, names in them written out, are not looked into."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text; `first` on its line."""

    kind: str
    text: str
    position: int
    first: bool


@dataclass(slots=True)
class LarkScan:
    """What was found."""

    may_force: bool = True
    """Every terminal surely forces no more than a bounded text."""
    specials: list[Token] = field(default_factory=list)
    """Special tokens and token ranges: ``<|name|>``, ``<[1-5]>``."""
    attributes: list[tuple[str, int]] = field(default_factory=list)
    """Rule attributes that are refused, and where."""


def scan_lark(text: str) -> LarkScan:
    """Read a grammar."""
    tokens = list(tokens_of(text))
    scan = LarkScan(specials=[token for token in tokens if token.kind == "special"])
    scan.attributes = list(_blocked_attributes(tokens))
    try:
        scan.may_force = all(forced_text(node).is_bounded for node in _Terminals(tokens).nodes())
    except (_UnknownError, RegexSyntaxError, UnsupportedConstraintError, RecursionError, IndexError):
        scan.may_force = False
    return scan


class _UnknownError(Exception):
    """Something that this reader does not know."""


def tokens_of(text: str) -> Iterator[Token]:
    """The pieces of the text, comments and spaces left out."""
    first = True
    for match in TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "newline":
            first = True
        elif kind not in ("comment", "space"):
            yield Token(kind, match[0], match.start(), first)
            first = False


def _blocked_attributes(tokens: list[Token]) -> Iterator[tuple[str, int]]:
    """`max_tokens=3` or `stop="x"` between a rule's name and its colon."""
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token.text in BLOCKED_ATTRIBUTES and before.text in ("[", ",") and after.text == "=":
            yield token.text, token.position


class _Terminals:
    """The terminals of a grammar as nodes: named ones, regexes inside rules, what is ignored."""

    def __init__(self, tokens: list[Token]) -> None:
        if any(token.text in ("%lark", "%regex") for token in tokens):
            raise _UnknownError
        self._definitions: dict[str, list[Token]] = {}
        self._roots: list[list[Token]] = []
        self._imported: set[str] = set()
        self._read_before: dict[str, tuple[Node, int]] = {}
        for statement in statements(tokens):
            self._add(statement)

    def nodes(self) -> Iterator[Node]:
        """Every terminal."""
        parts = 0
        for root in [*([Token("name", name, 0, False)] for name in self._definitions), *self._roots]:
            node, size = self._read(root, 0)
            parts += size
            if parts > MAX_PARTS:
                raise _UnknownError
            yield node

    def _add(self, statement: list[Token]) -> None:
        head = statement[0]
        colon = next((i for i, token in enumerate(statement) if token.text == ":"), None)
        if head.kind == "directive":
            if head.text == "%ignore":
                self._roots.append(statement[1:])
            elif head.text == "%import":
                self._imported.update(token.text for token in statement if token.kind == "name")
            elif head.text != "%llguidance":
                raise _UnknownError
        elif head.kind != "name" or colon is None:
            raise _UnknownError
        elif is_terminal_name(head.text):
            self._definitions[head.text.lstrip("!?")] = statement[colon + 1 :]
        else:
            self._roots += [[token] for token in statement[colon + 1 :] if token.kind == "regex"]

    def _read(self, tokens: list[Token], depth: int) -> tuple[Node, int]:
        if depth > MAX_DEPTH:
            raise _UnknownError
        reader = _Body(tokens, self, depth)
        node = reader.alternation()
        if reader.at < len(tokens):
            raise _UnknownError
        return node, reader.parts

    def named(self, name: str, depth: int) -> tuple[Node, int]:
        """The terminal of a name, and how many parts it has; what is imported is Lark's, and harmless."""
        if name not in self._read_before:
            if name in self._definitions:
                self._read_before[name] = self._read(self._definitions[name], depth + 1)
            elif name in self._imported:
                return WIDE, 1
            else:
                raise _UnknownError
        return self._read_before[name]


class _Body:
    """Reads the right side of a terminal."""

    def __init__(self, tokens: list[Token], terminals: _Terminals, depth: int) -> None:
        self.tokens = tokens
        self.terminals = terminals
        self.depth = depth
        self.at = 0
        self.parts = 0

    def alternation(self) -> Node:
        parts = [self.sequence()]
        while self.take("|"):
            parts.append(self.sequence())
        return Alt(tuple(parts))

    def sequence(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.tokens) and self.tokens[self.at].text not in ("|", ")", "]"):
            parts.append(self.quantified(self.atom()))
        return Cat(tuple(parts)) if parts else EMPTY

    def atom(self) -> Node:
        token = self.tokens[self.at]
        self.at += 1
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise _UnknownError
        if token.kind == "string":
            if self.take(".."):
                self.at += 1
                return WIDE if token.text != self.tokens[self.at - 1].text else _text(token)
            return _text(token)
        if token.kind == "regex":
            body, _, flags = token.text[1:].rpartition("/")
            if "x" in flags:
                raise _UnknownError
            return parse_regex(body.replace("\\/", "/"))
        if token.kind == "name" and is_terminal_name(token.text):
            node, parts = self.terminals.named(token.text, self.depth)
            self.parts += parts
            return node
        if token.text in ("(", "["):
            node = self.alternation()
            if not self.take(")" if token.text == "(" else "]"):
                raise _UnknownError
            return Loop(node, 0, 1) if token.text == "[" else node
        raise _UnknownError

    def quantified(self, node: Node) -> Node:
        if self.take("*"):
            return Loop(node, 0, None)
        if self.take("+"):
            return Loop(node, 1, None)
        if self.take("?"):
            return Loop(node, 0, 1)
        if self.take("~"):
            low = self.number()
            return Loop(node, low, self.number() if self.take("..") else low)
        if self.take("{"):
            low = self.number() if self.tokens[self.at].kind == "number" else 0
            high: int | None = low
            if self.take(","):
                high = self.number() if self.tokens[self.at].kind == "number" else None
            if not self.take("}"):
                raise _UnknownError
            return Loop(node, low, high)
        return node

    def number(self) -> int:
        if self.at >= len(self.tokens) or self.tokens[self.at].kind != "number":
            raise _UnknownError
        self.at += 1
        return int(self.tokens[self.at - 1].text)

    def take(self, mark: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at].text == mark:
            self.at += 1
            return True
        return False


def statements(tokens: list[Token]) -> Iterator[list[Token]]:
    """The definitions and directives, each of which begins a line."""
    statement: list[Token] = []
    for token in tokens:
        if token.first and statement and token.text != "|" and (token.kind in ("name", "directive")):
            yield statement
            statement = []
        statement.append(token)
    if statement:
        yield statement


def is_terminal_name(name: str) -> bool:
    """Whether it names a terminal, not a rule."""
    return name.upper() == name


def _text(token: Token) -> Text:
    try:
        text = json.loads(token.text.removesuffix("i"))
    except ValueError:
        raise _UnknownError from None
    return Text(text)
