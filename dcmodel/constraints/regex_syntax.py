"""The shape of a regex in the Rust dialect: enough to find what the engine cannot do, or would run wild on.

Where a construct is beyond this reader it becomes `UNKNOWN`, and `forced_text` expects the worst of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from dcmodel.constraints.char_class import class_chars, escape_chars
from dcmodel.constraints.chars import ANY, Chars, ascii_count
from dcmodel.errors import UnsupportedConstraintError

MANY_ESCAPES = frozenset("dDwWsSP")
PLAIN_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
WIDE_PROPERTIES = frozenset({"L", "Lu", "Ll", "N", "Nd", "P", "S", "Letter", "Alphabetic", "Greek", "Latin"})


@dataclass(frozen=True, slots=True)
class Text:
    """A fixed text, perhaps empty."""

    text: str


@dataclass(frozen=True, slots=True)
class OneOf:
    """A character out of a class: surely of several (`wide`), or who knows."""

    wide: bool
    chars: Chars = ANY
    """At least the characters that it holds."""


@dataclass(frozen=True, slots=True)
class Cat:
    """One after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    """One or another."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """From `low` to `high` times; None has no end."""

    body: Node
    low: int
    high: int | None


Node = Text | OneOf | Cat | Alt | Loop
EMPTY = Text("")
UNKNOWN = OneOf(wide=False)
WIDE = OneOf(wide=True)
ANCHOR = Loop(UNKNOWN, 0, 1)
"""No text; like anything that cannot be told, it may force one."""


class RegexSyntaxError(Exception):
    """The reader does not understand the pattern; the engine's own message is the one to show."""


def parse_regex(pattern: str) -> Node:
    """Read a pattern.

    Raises `UnsupportedConstraintError` with a position for look-around, back-references, word
    boundaries and verbose mode, `RegexSyntaxError` where the pattern is malformed.
    """
    try:
        reader = _Reader(pattern)
        node = reader.alternation()
    except (IndexError, RecursionError):
        raise RegexSyntaxError(pattern) from None
    if reader.at < len(pattern):
        raise RegexSyntaxError(pattern)
    return node


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def alternation(self) -> Node:
        parts = [self.sequence()]
        while self.take("|"):
            parts.append(self.sequence())
        return parts[0] if len(parts) == 1 else Alt(tuple(parts))

    def sequence(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            parts.append(self.quantified(self.atom()))
        return parts[0] if len(parts) == 1 else Cat(tuple(parts))

    def quantified(self, node: Node) -> Node:
        while self.at < len(self.pattern):
            if self.take("*"):
                node = Loop(node, 0, None)
            elif self.take("+"):
                node = Loop(node, 1, None)
            elif self.take("?"):
                node = Loop(node, 0, 1)
            elif self.take("{"):
                low, comma, high = self.until("}").partition(",")
                if not all(count.strip().isdecimal() for count in {low or high, high or low}):
                    raise RegexSyntaxError(self.pattern)
                least = int(low or 0)
                node = Loop(node, least, (int(high) if high.strip() else None) if comma else least)
            else:
                break
            self.take("?")
        return node

    def atom(self) -> Node:
        char = self.pattern[self.at]
        self.at += 1
        if char == "(":
            return self.group()
        if char == "[":
            return self.character_class()
        if char == "\\":
            return self.escape()
        if char == ".":
            return WIDE
        if char in "^$":
            return ANCHOR
        if char in "*+?{":
            raise RegexSyntaxError(self.pattern)
        return Text(char)

    def group(self) -> Node:
        start = self.at - 1
        if self.take("?"):
            for mark, what in (("=", "look-ahead"), ("!", "look-ahead"), ("<=", "look-behind")):
                if self.ahead(mark):
                    raise unsupported_feature(what, start)
            if self.ahead("<!"):
                raise unsupported_feature("look-behind", start)
            if self.ahead("P="):
                raise unsupported_feature("back-reference", start)
            if self.ahead(">"):
                raise unsupported_feature("atomic group", start)
            if self.take("P<") or self.take("<"):
                self.until(">")
            else:
                flags = ""
                while self.pattern[self.at] not in ":)":
                    flags += self.pattern[self.at]
                    self.at += 1
                if "x" in flags.partition("-")[0]:
                    raise unsupported_feature("verbose mode", start)
                if self.take(")"):
                    return EMPTY
                self.at += 1
        node = self.alternation()
        if not self.take(")"):
            raise RegexSyntaxError(self.pattern)
        return node

    def escape(self) -> Node:
        start = self.at - 1
        char = self.pattern[self.at]
        self.at += 1
        if char in "bB" or char in "<>":
            raise unsupported_feature("word boundary", start)
        if char in "123456789" or (char == "k" and self.ahead("<")):
            raise unsupported_feature("back-reference", start)
        if char in MANY_ESCAPES:
            if char == "P":
                self.property_name()
            return OneOf(wide=True, chars=escape_chars(char))
        if char == "p":
            return OneOf(wide=self.property_name() in WIDE_PROPERTIES)
        if char in "xuU":
            return Text(self.code_point(char))
        if char in PLAIN_ESCAPES:
            return Text(PLAIN_ESCAPES[char])
        return UNKNOWN if char.isalnum() else Text(char)

    def property_name(self) -> str:
        if self.take("{"):
            return self.until("}")
        self.at += 1
        return self.pattern[self.at - 1]

    def code_point(self, kind: str) -> str:
        if self.take("{"):
            digits = self.until("}")
        else:
            width = {"x": 2, "u": 4, "U": 8}[kind]
            digits = self.pattern[self.at : self.at + width]
            self.at += width
            if len(digits) < width:
                raise RegexSyntaxError(self.pattern)
        try:
            return chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise RegexSyntaxError(self.pattern) from None

    def character_class(self) -> Node:
        """Wide if it surely holds several characters: a plain list of them, or all but a few."""
        negated = self.take("^")
        start, depth, plain = self.at, 1, True
        while depth:
            char = self.pattern[self.at]
            if char == "\\":
                plain = plain and self.pattern[self.at + 1] not in "pPxuU"
                self.at += 1
            elif char == "[":
                depth, plain = depth + 1, False
            elif char == "]" and self.at > start:
                depth -= 1
            self.at += 1
        body = self.pattern[start : self.at - 1]
        members = class_chars(body, negated=negated)
        if members is None:
            return UNKNOWN
        is_wide = (plain and _is_wide(body, negated)) or ascii_count(members) > 1
        return OneOf(wide=is_wide, chars=members)

    def take(self, mark: str) -> bool:
        if self.ahead(mark):
            self.at += len(mark)
            return True
        return False

    def ahead(self, mark: str) -> bool:
        return self.pattern.startswith(mark, self.at)

    def until(self, mark: str) -> str:
        end = self.pattern.find(mark, self.at)
        if end < 0:
            raise RegexSyntaxError(self.pattern)
        text, self.at = self.pattern[self.at : end], end + len(mark)
        return text


def _is_wide(body: str, negated: bool) -> bool:
    if any(f"\\{char}" in body for char in "dDwWsS"):
        return not negated
    if negated:
        # Plain characters and ranges below U+00FF leave most of Unicode.
        return all(char < "\u00ff" for char in body)
    return len(set(body.replace("\\", "").replace("-", ""))) > 1


def unsupported_feature(what: str, position: int) -> UnsupportedConstraintError:
    """The refusal of a regex feature that has no exact mask."""
    remedies = {
        "look-ahead": "Say it with what may match: classes, alternatives, or `&` and `~` in a Grammar.",
        "look-behind": "Say it with what may match: classes, alternatives, or `&` and `~` in a Grammar.",
        "back-reference": "Write the alternatives out.",
        "word boundary": "Write the characters that may stand there.",
        "atomic group": "Use a plain group (?:...).",
        "verbose mode": "Write the pattern without (?x).",
    }
    error = UnsupportedConstraintError(
        f"the regex uses a {what} at position {position}, which is not supported.",
        remedy=remedies[what],
        keyword=what,
    )
    error.position = position
    return error
