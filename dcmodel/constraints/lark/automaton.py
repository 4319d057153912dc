"""Terminals as automata over characters: whether one text can be read beyond where it should end.

Automata accept at least the language of their node, so whatever they rule out is impossible.
"""

from __future__ import annotations

from dataclasses import dataclass

from dcmodel.constraints.chars import Chars, meet, union
from dcmodel.constraints.regex_syntax import Alt, Cat, Loop, Node, OneOf, Text

MAX_POSITIONS = 3_000
MAX_COPIES = 16
"""Repeats are written out so many times; a longer one becomes one without end."""


class TooLargeError(Exception):
    """The automaton, or the work with it, would be too large."""


@dataclass(slots=True)
class Automaton:
    """Positions of characters in the node (Glushkov's construction)."""

    chars: list[Chars]
    follow: list[set[int]]
    first: set[int]
    last: set[int]
    is_nullable: bool

    @property
    def start_chars(self) -> list[Chars]:
        """What a text may begin with."""
        return [self.chars[position] for position in self.first]


@dataclass(slots=True)
class _Part:
    first: set[int]
    last: set[int]
    is_nullable: bool


class _Builder:
    def __init__(self) -> None:
        self.chars: list[Chars] = []
        self.follow: list[set[int]] = []

    def build(self, node: Node) -> _Part:
        match node:
            case Text(text):
                return self.row([self.position(((ord(char), ord(char)),)) for char in text])
            case OneOf(_, members):
                return self.position(members)
            case Cat(parts):
                return self.row([self.build(part) for part in parts])
            case Alt(parts):
                characters = _characters(node)
                if characters is not None:
                    return self.position(characters)
                return self.either([self.build(part) for part in parts])
            case Loop(body, low, high):
                return self.loop(body, low, high)

    def position(self, members: Chars) -> _Part:
        if len(self.chars) >= MAX_POSITIONS:
            raise TooLargeError
        self.chars.append(members)
        self.follow.append(set())
        at = len(self.chars) - 1
        return _Part({at}, {at}, False)

    def row(self, parts: list[_Part]) -> _Part:
        whole = _Part(set(), set(), True)
        for part in parts:
            self.link(whole.last, part.first)
            if whole.is_nullable:
                whole.first = whole.first | part.first
            whole.last = part.last | (whole.last if part.is_nullable else set())
            whole.is_nullable = whole.is_nullable and part.is_nullable
        return whole

    def either(self, parts: list[_Part]) -> _Part:
        return _Part(
            set().union(*(part.first for part in parts)),
            set().union(*(part.last for part in parts)),
            any(part.is_nullable for part in parts),
        )

    def loop(self, body: Node, low: int, high: int | None) -> _Part:
        if high is None or high > MAX_COPIES:
            copies = [self.build(body) for _ in range(min(max(low, 1), MAX_COPIES))]
            self.link(copies[-1].last, copies[-1].first)
            whole = self.row(copies)
            whole.is_nullable = whole.is_nullable or low == 0
            return whole
        parts = [self.build(body) for _ in range(high)]
        for part in parts[low:]:
            part.is_nullable = True
        return self.row(parts)

    def link(self, ends: set[int], starts: set[int]) -> None:
        for end in ends:
            self.follow[end] |= starts


def _characters(node: Node) -> Chars | None:
    """The set of characters that a node is, or None where it is something else."""
    match node:
        case Text(text) if len(text) == 1:
            return ((ord(text), ord(text)),)
        case OneOf(_, members):
            return members
        case Cat((part,)):
            return _characters(part)
        case Alt(parts) if parts:
            found = [chars for part in parts if (chars := _characters(part)) is not None]
            return union(found) if len(found) == len(parts) else None
    return None


def automaton(node: Node) -> Automaton:
    """The automaton of a node. Raises `TooLargeError`."""
    builder = _Builder()
    whole = builder.build(node)
    return Automaton(builder.chars, builder.follow, whole.first, whole.last, whole.is_nullable)


class Meter:
    """Counts work, and stops it with `TooLargeError`."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooLargeError


def may_read_on(one: Automaton, other: Automaton, after: Chars, meter: Meter) -> bool:
    """Whether, after some text of `one`, a character out of `after` goes on towards a text of `other`."""
    return any(
        meet(other.chars[following], after)
        for position, place in _common(one, other, meter)
        if position in one.last
        for following in other.follow[place]
    )


def share_a_text(one: Automaton, other: Automaton, meter: Meter) -> bool:
    """Whether some text, not the empty one, is in both."""
    return any(position in one.last and place in other.last for position, place in _common(one, other, meter))


def _common(one: Automaton, other: Automaton, meter: Meter) -> set[tuple[int, int]]:
    """Pairs of positions that the two can reach with the same text."""
    seen: set[tuple[int, int]] = set()
    todo = [(one.first, other.first)]
    while todo:
        positions, places = todo.pop()
        meter.spend(len(positions) * len(places))
        for position in positions:
            for place in places:
                pair = (position, place)
                if pair not in seen and meet(one.chars[position], other.chars[place]):
                    seen.add(pair)
                    todo.append((one.follow[position], other.follow[place]))
    return seen
