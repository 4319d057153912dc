"""Looks for a text that completes several walkers at once: the witness that there is a way to go on.

A depth-first search with a growing limit of depth. Bytes that close something are tried first, so that
the completion of a long, mostly determined text (a JSON object) is found on the first way down; and since
the last choices are changed first, a short detour (one `7` in a list of numbers) is found soon. What no
such way finds (a phrase that has to appear somewhere) is looked for with *hints*: whole texts that are
tried as one move, each once on a way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dcmodel.constraint import Walker
from dcmodel.constraints.algebra.walkers import ALL_BYTES, bytes_of

STRAIGHT_STEPS = 1_000
"""For the first way down, without a limit of depth: what is mostly determined is found by it."""
MAX_KEPT = 400
COPY_COST = 32
DEPTHS = (6, 24, 96, 1_000, 20_000)
HINTED_DEPTHS = (400, 24)
PREFERRED = b"\"}])>0a \n'1;.-,:{[(<"
RANK = {byte: rank for rank, byte in enumerate(PREFERRED)}
SINGLE = tuple(bytes([byte]) for byte in range(256))

Wanted = Callable[[bytes], bool]


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


def find_completion(
    walkers: Sequence[Walker],
    *,
    steps: int,
    hints: Sequence[bytes] = (),
    is_wanted: Wanted | None = None,
    at_least: int = 0,
) -> Search:
    """Search with at most `steps` moves of a walker.

    `is_wanted` may refuse a completion (the search goes on); `at_least` is its least length in bytes.
    """
    plans: list[tuple[int, Sequence[bytes]]] = [(depth, ()) for depth in (DEPTHS[-1], *DEPTHS)]
    if hints:
        plans[1:1] = [(depth, hints) for depth in HINTED_DEPTHS]
    deepest = b""
    used = 0
    for place, (depth, own_hints) in enumerate(plans):
        is_last = place == len(plans) - 1
        allowance = steps - used if is_last else (steps - used) // 3 + 1
        if place == 0:
            allowance = min(allowance, STRAIGHT_STEPS)
        run = _Run(walkers, depth, allowance, own_hints, is_wanted, at_least)
        found = run.search()
        used += allowance - run.left
        deepest = max(deepest, run.deepest, key=len)
        if found is not None:
            return Search(found, False, deepest, used)
        if not run.was_cut:
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
        steps: int,
        hints: Sequence[bytes],
        is_wanted: Wanted | None,
        at_least: int,
    ) -> None:
        self.walkers = tuple(walkers)
        self.depth = depth
        self.left = steps
        self.hints = frozenset(hints)
        self.is_wanted = is_wanted
        self.at_least = at_least
        self.moves: list[bytes] = []
        self.length = 0
        self.deepest = b""
        self.was_cut = False

    def search(self) -> bytes | None:
        """The first completion; `was_cut` tells whether anything was left out."""
        if self._is_complete(self.walkers):
            return b""
        stack = [(self.walkers, self._choices(self.walkers))]
        while stack:
            self._let_go(stack)
            walkers, choices = stack[-1]
            if not choices:
                stack.pop()
                if self.moves:
                    self.length -= len(self.moves.pop())
                continue
            if self.left <= 0:
                self.was_cut = True
                return None
            piece = choices.pop()
            # A copy costs what the text is long.
            self.left -= (len(walkers) + self.length // COPY_COST) * len(piece)
            moved = move_over(walkers, piece)
            if moved is None:
                continue
            self.moves.append(piece)
            self.length += len(piece)
            if self.length > len(self.deepest):
                self.deepest = b"".join(self.moves)
            if self._is_complete(moved):
                return b"".join(self.moves)
            stack.append((moved, self._choices(moved)))
        return None

    def _let_go(self, stack: list[tuple[tuple[Walker, ...], list[bytes]]]) -> None:
        """Copies of an engine grow with the text: those that would be tried last are dropped."""
        if len(stack) > MAX_KEPT:
            self.was_cut = self.was_cut or bool(stack[-MAX_KEPT - 1][1])
            stack[-MAX_KEPT - 1] = ((), [])

    def _is_complete(self, walkers: tuple[Walker, ...]) -> bool:
        if self.length < self.at_least or not all(walker.is_accepting for walker in walkers):
            return False
        return self.is_wanted is None or self.is_wanted(b"".join(self.moves))

    def _choices(self, walkers: tuple[Walker, ...]) -> list[bytes]:
        """What to try, the best last."""
        allowed = ALL_BYTES
        for walker in walkers:
            allowed &= walker.following()
            if not allowed:
                return []
        if self.length >= self.depth:
            self.was_cut = True
            return []
        # ASCII before others: a character of several bytes is the longer way.
        order = sorted(bytes_of(allowed), key=lambda byte: RANK.get(byte, 1000 + byte), reverse=True)
        choices = [SINGLE[byte] for byte in order]
        if self.hints:
            choices += [hint for hint in self.hints.difference(self.moves) if (allowed >> hint[0]) & 1]
        return choices


def move_over(walkers: Sequence[Walker], text: bytes) -> tuple[Walker, ...] | None:
    """The walkers after `text`; None where one refuses it. The given ones stay where they are."""
    moved = []
    for walker in walkers:
        twin = walker.fork()
        if twin.walk(text) < len(text):
            return None
        moved.append(twin)
    return tuple(moved)
