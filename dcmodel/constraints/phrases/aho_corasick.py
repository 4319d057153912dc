"""Which of many phrases a text holds, byte by byte, at a cost that does not depend on their number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from dcmodel.errors import InvalidConstraintError

Ints = NDArray[np.int32]

MAX_CELLS = 16_000_000
"""Bound of states times distinct bytes: 64 MB, some 10,000 phrases of 20 letters."""
MAX_PHRASE = 10_000
"""Bytes of a phrase: each level of the automaton takes its time."""


@dataclass(frozen=True, slots=True)
class Trie:
    """The beginnings of sorted phrases; state 0 is the empty one, and a child's number is the larger."""

    children: Ints
    """Shape ``[states, width]``; -1 where there is none."""
    depth: Ints
    """Bytes of each state's beginning."""
    first: Ints
    last: Ints
    """The phrases that begin so: ``[first, last)`` of the sorted ones."""
    states: Ints
    """For each phrase in turn, the states after its 1st, 2nd, ... byte."""
    own: Ints
    """The phrase that a state is, else -1."""


class AhoCorasick:
    """The automaton of a set of phrases. Immutable, shared between threads.

    A *state* is the longest end of the text that is the beginning of a phrase, as a number: the place
    of its row in `cells`. The states where a phrase is complete come last, from `first_match` on, and
    are never left again: who reads on after a match does so from `start`.

    phrases      the distinct phrases as bytes, sorted
    classes      a table for `bytes.translate`: bytes that no phrase holds are one class
    width        the number of classes
    start        the state of the empty text, 0
    """

    start = 0

    def __init__(self, phrases: Iterable[bytes]) -> None:
        """`phrases` are not empty. Raises `InvalidConstraintError` where they are too large together."""
        self.phrases = sorted(set(phrases))
        used = sorted(set().union(*self.phrases))
        shift = 0 if len(used) == 256 else 1
        classes = bytearray(256)
        for number, byte in enumerate(used):
            classes[byte] = number + shift
        self.classes = bytes(classes)
        self.width = len(used) + shift
        trie = self._trie()
        table, fail, longest = _linked(trie)
        self._renumber(trie, table, fail, longest)

    def _trie(self) -> Trie:
        longest = max(self.phrases, key=len)
        if len(longest) > MAX_PHRASE:
            raise InvalidConstraintError(
                f"the phrase {longest[:40].decode(errors='replace')!r}... has {len(longest)} bytes.",
                remedy=f"Give phrases of at most {MAX_PHRASE} bytes.",
            )
        bound = sum(map(len, self.phrases)) + 1
        if bound * self.width > MAX_CELLS:
            raise InvalidConstraintError(
                f"{len(self.phrases)} phrases of {bound - 1} bytes together are too large.",
                remedy=f"Give phrases of at most {MAX_CELLS // self.width} bytes together.",
            )
        children = np.full((bound, self.width), -1, dtype=np.int32)
        depth, first, last, own = [0], [0], [len(self.phrases)], [-1]
        path: list[int] = []
        rows = children  # indexed by pairs, which is quicker than through rows
        for number, phrase in enumerate(self.phrases):
            state = 0
            for place, byte in enumerate(phrase.translate(self.classes)):
                child = int(rows[state, byte])
                if child < 0:
                    child = rows[state, byte] = len(depth)
                    depth.append(place + 1)
                    first.append(number)
                    last.append(number)
                    own.append(-1)
                state = child
                last[state] = number + 1
                path.append(state)
            own[state] = number
        columns = (np.array(column, dtype=np.int32) for column in (depth, first, last, path, own))
        return Trie(children[: len(depth)], *columns)

    def _renumber(self, trie: Trie, table: Ints, fail: Ints, longest: Ints) -> None:
        """Put the matches last, and count states in cells instead of rows."""
        is_match = longest >= 0
        order = np.argsort(is_match, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        scaled = (place * self.width).astype(np.int32)
        self.table: Ints = np.ascontiguousarray(scaled[table[order]])
        self.cells = self.table.reshape(-1).data
        self.first_match = int((~is_match).sum()) * self.width
        self.depth = trie.depth[order]
        self._depths = self.depth.data
        self.fail = scaled[fail[order]]
        self.longest = longest[order]
        self.first, self.last = trie.first[order], trie.last[order]
        self.path = scaled[trie.states]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each phrase begins in `path`."""
        lengths = np.fromiter(map(len, self.phrases), dtype=np.int64, count=len(self.phrases))
        return np.cumsum(lengths) - lengths

    def walk(self, state: int, text: bytes) -> int:
        """The state after `text`, or that of the first match in it."""
        cells = self.cells
        for number in text.translate(self.classes):
            state = cells[state + number]
        return state

    def find(self, state: int, text: bytes) -> tuple[int, bytes]:
        """The first match in `text`, read from `state`: how many bytes were read, and the phrase.

        Of the phrases that are complete there the longest. There has to be a match.
        """
        for count, number in enumerate(text.translate(self.classes), start=1):
            state = self.cells[state + number]
            if state >= self.first_match:
                return count, self.phrases[self.longest[state // self.width]]
        raise ValueError("no phrase is complete in the text")

    def held(self, state: int) -> int:
        """How many bytes at the end of the text may be the beginning of a phrase."""
        return self._depths[state // self.width]

    def following(self, state: int) -> int:
        """The bytes after which no phrase is complete, as 256 bits."""
        row = self.table[state // self.width]
        fine = row[np.frombuffer(self.classes, dtype=np.uint8)] < self.first_match
        return int.from_bytes(np.packbits(fine, bitorder="little").tobytes(), "little")


MAX_KEPT_BYTES = 4096


def automaton_of(phrases: tuple[str, ...]) -> AhoCorasick:
    """The automaton of texts; small ones are kept, as the same few stop strings come with each request."""
    if sum(map(len, phrases)) > MAX_KEPT_BYTES:
        return AhoCorasick(phrase.encode() for phrase in phrases)
    return _kept(phrases)


@lru_cache(maxsize=128)
def _kept(phrases: tuple[str, ...]) -> AhoCorasick:
    return AhoCorasick(phrase.encode() for phrase in phrases)


def levels(depth: Ints) -> list[NDArray[np.intp]]:
    """The places of 0, 1, 2, ... in `depth`, which has all of them."""
    order = np.argsort(depth, kind="stable")
    return np.split(order, np.searchsorted(depth[order], np.arange(1, depth.max() + 1)))


def _linked(trie: Trie) -> tuple[Ints, Ints, Ints]:
    """Where each state goes at each byte, its longest proper end that is a state, its longest match.

    All states of one depth at a time: what they lack, they have from states that are less deep.
    """
    table = trie.children.copy()
    fail = np.zeros(len(table), dtype=np.int32)
    longest = trie.own.copy()
    table[0][table[0] < 0] = 0
    for here in levels(trie.depth)[1:]:
        fallback = table[fail[here]]
        longest[here] = np.where(longest[here] < 0, longest[fail[here]], longest[here])
        own = table[here]
        parents, numbers = np.nonzero(own >= 0)
        fail[own[parents, numbers]] = fallback[parents, numbers]
        table[here] = np.where(own >= 0, own, fallback)
    matches = np.flatnonzero(longest >= 0)
    table[matches] = matches[:, None]
    return table, fail, longest
