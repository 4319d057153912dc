"""What patterns of ECMA 262 are made of."""

from __future__ import annotations

from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]

DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Ranges = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
    *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
LAST = 0x10FFFF


class NotRegularError(Exception):
    """The pattern is malformed, or no regular expression says the same; the message says what is at fault."""


class UnclearError(NotRegularError):
    """Engines read the pattern differently, so no check of it can be trusted."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of ranges, and of Unicode properties such as ``p{L}`` (``P{L}`` negated)."""

    ranges: Ranges
    properties: tuple[str, ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Repeat:
    """`body` from `low` to `high` times; None has no end."""

    body: Item
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class Group:
    """One of several sequences."""

    alternatives: tuple[tuple[Item, ...], ...]


@dataclass(frozen=True, slots=True)
class Anchor:
    """The beginning (``^``) or the end (``$``) of the text."""

    sign: str


Item = Chars | Repeat | Group | Anchor
Sequence = tuple[Item, ...]

START, END = Anchor("^"), Anchor("$")
NOTHING = Group(((),))
ANYTHING = Repeat(Chars((), negated=True), 0, None)


def complement(ranges: Ranges) -> Ranges:
    """All other code points."""
    result = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            result.append((start, low - 1))
        start = max(start, high + 1)
    if start <= LAST:
        result.append((start, LAST))
    return tuple(result)
