"""Walkers of combinations: the exact meaning of `&`, `|`, `~` and `+`, byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dcmodel.constraint import Walker

ALL_BYTES = (1 << 256) - 1


def bytes_of(following: int) -> list[int]:
    """The bytes of a set of 256 bits, ascending."""
    found = []
    while following:
        lowest = following & -following
        found.append(lowest.bit_length() - 1)
        following ^= lowest
    return found


class AndWalker(Walker):
    """The text satisfies every part. `following` may hold bytes that lead nowhere."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Walker]) -> None:
        self._parts = tuple(parts)

    def following(self) -> int:
        allowed = ALL_BYTES
        for part in self._parts:
            allowed &= part.following()
            if not allowed:
                break
        return allowed

    def step(self, byte: int) -> bool:
        moved = []
        for part in self._parts:
            twin = part.fork()
            if not twin.step(byte):
                return False
            moved.append(twin)
        self._parts = tuple(moved)
        return True

    @property
    def is_accepting(self) -> bool:
        return all(part.is_accepting for part in self._parts)

    @property
    def is_exact(self) -> bool:
        return len(self._parts) == 1 and self._parts[0].is_exact

    def fork(self) -> AndWalker:
        # Parts are forked before they move, so copies may share them.
        return AndWalker(self._parts)


class OrWalker(Walker):
    """The text satisfies a part; those that it has left are dropped."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Walker]) -> None:
        self._parts = tuple(parts)

    def following(self) -> int:
        allowed = 0
        for part in self._parts:
            allowed |= part.following()
        return allowed

    def step(self, byte: int) -> bool:
        twins = [part.fork() for part in self._parts]
        moved = tuple(twin for twin in twins if twin.step(byte))
        if moved:
            self._parts = moved
        return bool(moved)

    @property
    def is_accepting(self) -> bool:
        return any(part.is_accepting for part in self._parts)

    @property
    def is_exact(self) -> bool:
        return all(part.is_exact for part in self._parts)

    def fork(self) -> OrWalker:
        return OrWalker(self._parts)


class NotWalker(Walker):
    """The text does not satisfy the part: once that has been left, everything is allowed.

    Says nothing of UTF-8, and may lead where the part has become everything.
    """

    __slots__ = ("_part",)

    def __init__(self, part: Walker | None) -> None:
        self._part = part

    def following(self) -> int:
        return ALL_BYTES

    def step(self, byte: int) -> bool:
        if self._part is not None:
            twin = self._part.fork()
            self._part = twin if twin.step(byte) else None
        return True

    @property
    def is_accepting(self) -> bool:
        return self._part is None or not self._part.is_accepting

    @property
    def is_exact(self) -> bool:
        return self._part is None

    def fork(self) -> NotWalker:
        return NotWalker(self._part)


class ThenWalker(Walker):
    """One part after the other, all ways to divide the text at once."""

    __slots__ = ("_begin", "_states")

    def __init__(
        self, begin: Sequence[Callable[[], Walker]], states: Sequence[tuple[int, Walker]] | None = None
    ) -> None:
        """`begin` makes a walker of each part; `states` are the (part, walker) pairs that are possible."""
        self._begin = tuple(begin)
        self._states = tuple(states) if states is not None else self._closed([(0, self._begin[0]())])

    def _closed(self, states: list[tuple[int, Walker]]) -> tuple[tuple[int, Walker], ...]:
        """Where a part is complete, the next one may begin."""
        begun: set[int] = set()
        for place, walker in states:  # grows while it is read
            following = place + 1
            if walker.is_accepting and following < len(self._begin) and following not in begun:
                begun.add(following)
                states.append((following, self._begin[following]()))
        return tuple(states)

    @property
    def part(self) -> int:
        """The earliest part that the text may go on in; of a text that cannot go on, the last one."""
        going = [place for place, walker in self._states if walker.following()]
        return min(going) if going else max(place for place, _ in self._states)

    def following(self) -> int:
        allowed = 0
        for _, walker in self._states:
            allowed |= walker.following()
        return allowed

    def step(self, byte: int) -> bool:
        twins = [(place, walker.fork()) for place, walker in self._states]
        moved = [(place, twin) for place, twin in twins if twin.step(byte)]
        if moved:
            self._states = self._closed(moved)
        return bool(moved)

    @property
    def is_accepting(self) -> bool:
        last = len(self._begin) - 1
        return any(place == last and walker.is_accepting for place, walker in self._states)

    @property
    def is_exact(self) -> bool:
        return all(walker.is_exact for _, walker in self._states)

    def fork(self) -> ThenWalker:
        return ThenWalker(self._begin, self._states)
