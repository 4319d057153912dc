"""Patterns of ECMA 262 as JSON schemas have them, read into trees.

What is read is regular: look-around, back-references and word boundaries are refused with `NotRegularError`.
Characters are code points, as with the flag `u`; `\\d` and `\\w` are ASCII, `\\s` is ECMA's white space.
"""

from __future__ import annotations

from dataclasses import dataclass

from dcmodel.constraints.schema.ecma_reader import Reader
from dcmodel.constraints.schema.ecma_tree import (
    END,
    START,
    Anchor,
    Group,
    Item,
    NotRegularError,
    Repeat,
    Sequence,
)

MAX_ALTERNATIVES = 64


@dataclass(frozen=True, slots=True)
class Anchored:
    """A sequence without anchors, and whether it begins and ends where the text does."""

    items: Sequence
    at_start: bool
    at_end: bool


def parse(pattern: str, *, relaxed: bool = False) -> tuple[Anchored, ...]:
    """The alternatives of a pattern that is searched for. Raises `NotRegularError`.

    With `relaxed`, what is not regular is read as something wider: assertions as nothing,
    back-references as any text.
    """
    try:
        reader = Reader(pattern, relaxed)
        alternatives = reader.alternatives()
        if reader.at < len(pattern):
            raise NotRegularError("an unmatched parenthesis")
        return tuple(_anchored(items, relaxed) for items in _spread(alternatives))
    except (IndexError, RecursionError, OverflowError):
        raise NotRegularError("a pattern that cannot be read") from None


def _spread(alternatives: tuple[Sequence, ...]) -> list[Sequence]:
    """The same without groups that hold anchors."""
    result: list[Sequence] = []
    for items in alternatives:
        heads: list[Sequence] = [()]
        for item in items:
            inner = _spread(item.alternatives) if isinstance(item, Group) and _has_anchor(item) else [(item,)]
            heads = [(*head, *tail) for head in heads for tail in inner]
            if len(heads) > MAX_ALTERNATIVES:
                raise NotRegularError("anchors in too many alternatives")
        result += heads
    return result


def _has_anchor(item: Item) -> bool:
    match item:
        case Anchor():
            return True
        case Repeat(body):
            return _has_anchor(body)
        case Group(alternatives):
            return any(_has_anchor(part) for items in alternatives for part in items)
        case _:
            return False


def _anchored(items: Sequence, relaxed: bool) -> Anchored:
    low, high = 0, len(items)
    while low < high and items[low] == START:
        low += 1
    while high > low and items[high - 1] == END:
        high -= 1
    inner = items[low:high]
    if any(_has_anchor(item) for item in inner):
        if relaxed:
            return Anchored((), False, False)
        raise NotRegularError("an anchor in the middle")
    return Anchored(inner, low > 0, high < len(items))
