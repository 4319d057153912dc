"""Looks for a text that completes several walkers at once: the witness that there is a way to go on.

A depth-first search with a growing limit of depth. Bytes that close something are tried first, so that
the completion of a long, mostly determined text (a JSON object) is found on the first way down; and since
the last choices are changed first, a short detour (one `7` in a list of numbers) is found soon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dcmodel.constraint import Walker
from dcmodel.constraints.algebra.walkers import ALL_BYTES, bytes_of

MAX_KEPT = 400
COPY_COST = 32
DEPTHS = (6, 24, 96, 1_000, 20_000)
PREFERRED = b"\"}])>0a \n'1;.-,:{[(<"
RANK = {byte: rank for rank, byte in enumerate(PREFERRED)}


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found."""

    completion: bytes | None
    """A text after which all walkers accept; None if none was found."""
    is_exhaustive: bool
    """None was found because there is none."""
    deepest: bytes = b""
    """The longest text that was tried."""
    steps: int = 0


class _Budget:
    def __init__(self, steps: int) -> None:
        self.left = steps


def find_completion(
    walkers: Sequence[Walker],
    *,
    steps: int,
    is_wanted: Callable[[bytes], bool] | None = None,
    at_least: int = 0,
) -> Search:
    """Search with at most `steps` moves of a walker.

    `is_wanted` may refuse a completion (the search goes on); `at_least` is its least length in bytes.
    """
    deepest = b""
    used = 0
    for depth in DEPTHS:
        budget = _Budget((steps - used) if depth == DEPTHS[-1] else min((steps - used) // 2 + 1, steps))
        run = _Run(walkers, depth, budget, is_wanted, at_least)
        before = budget.left
        found = run.search()
        used += before - budget.left
        if len(run.deepest) > len(deepest):
            deepest = run.deepest
        if found is not None:
            return Search(found, False, deepest, used)
        if budget.left > 0 and not run.was_cut:
            return Search(None, True, deepest, used)
        if used >= steps:
            break
    return Search(None, False, deepest, used)


class _Run:
    """One search down to a depth."""

    def __init__(
        self,
        walkers: Sequence[Walker],
        depth: int,
        budget: _Budget,
        is_wanted: Callable[[bytes], bool] | None,
        at_least: int,
    ) -> None:
        self.walkers = tuple(walkers)
        self.depth = depth
        self.budget = budget
        self.is_wanted = is_wanted
        self.at_least = at_least
        self.path = bytearray()
        self.deepest = b""
        self.was_cut = False

    def search(self) -> bytes | None:
        if self._is_complete(self.walkers):
            return b""
        stack: list[tuple[tuple[Walker, ...], list[int]]] = [(self.walkers, self._choices(self.walkers))]
        while stack:
            if len(stack) > MAX_KEPT:
                # Copies of an engine grow with the text: those that would be tried last are let go.
                self.was_cut = self.was_cut or bool(stack[-MAX_KEPT - 1][1])
                stack[-MAX_KEPT - 1] = ((), [])
            walkers, choices = stack[-1]
            if not choices:
                stack.pop()
                del self.path[-1:]
                continue
            if self.budget.left <= 0:
                self.was_cut = True
                return None
            byte = choices.pop()
            # A copy costs what the text is long.
            self.budget.left -= len(walkers) + len(self.path) // COPY_COST
            moved = move(walkers, byte)
            if moved is None:
                continue
            self.path.append(byte)
            if len(self.path) > len(self.deepest):
                self.deepest = bytes(self.path)
            if self._is_complete(moved):
                return bytes(self.path)
            stack.append((moved, self._choices(moved)))
        return None

    def _is_complete(self, walkers: tuple[Walker, ...]) -> bool:
        if len(self.path) < self.at_least or not all(walker.is_accepting for walker in walkers):
            return False
        return self.is_wanted is None or self.is_wanted(bytes(self.path))

    def _choices(self, walkers: tuple[Walker, ...]) -> list[int]:
        """Bytes to try, the best last."""
        allowed = ALL_BYTES
        for walker in walkers:
            allowed &= walker.following()
            if not allowed:
                return []
        if len(self.path) >= self.depth:
            self.was_cut = True
            return []
        # ASCII before others: a character of several bytes is the longer way.
        return sorted(bytes_of(allowed), key=lambda byte: RANK.get(byte, 1000 + byte), reverse=True)


def move(walkers: Sequence[Walker], byte: int) -> tuple[Walker, ...] | None:
    """The walkers after one more byte; None where one refuses it. The given ones stay where they are."""
    moved = []
    for walker in walkers:
        twin = walker.fork()
        if not twin.step(byte):
            return None
        moved.append(twin)
    return tuple(moved)


def move_over(walkers: Sequence[Walker], text: bytes) -> tuple[Walker, ...] | None:
    """The walkers after `text`; None where one refuses it. The given ones stay where they are."""
    moved = []
    for walker in walkers:
        twin = walker.fork()
        if twin.walk(text) < len(text):
            return None
        moved.append(twin)
    return tuple(moved)
