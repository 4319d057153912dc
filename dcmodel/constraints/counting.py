"""Automata that read UTF-8 byte by byte and count its characters or words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import MaskRow
from dcmodel.constraints.sorted_vocabulary import Positions, SortedVocabulary

Unit = Literal["characters", "words"]
Ranges = tuple[tuple[int, int], ...]

_ANY = (0x80, 0xBF)
_LEADS: tuple[tuple[int, int, Ranges], ...] = (
    (0x00, 0x7F, ()),
    (0xC2, 0xDF, (_ANY,)),
    (0xE0, 0xE0, ((0xA0, 0xBF), _ANY)),
    (0xE1, 0xEC, (_ANY, _ANY)),
    (0xED, 0xED, ((0x80, 0x9F), _ANY)),
    (0xEE, 0xEF, (_ANY, _ANY)),
    (0xF0, 0xF0, ((0x90, 0xBF), _ANY, _ANY)),
    (0xF1, 0xF3, (_ANY, _ANY, _ANY)),
    (0xF4, 0xF4, ((0x80, 0x8F), _ANY, _ANY)),
)
"""First bytes of characters, and what their other bytes may be."""

SPACES = (
    *range(9, 14),
    0x20,
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
)
r"""What Unicode calls white space: `\s` of the regex dialect (Python's has four control characters more)."""
_SPACES = frozenset(chr(code).encode() for code in SPACES)
_SPACE_BEGINNINGS = frozenset(space[:n] for space in _SPACES for n in range(1, len(space) + 1))


MAX_SPACES = 20
"""How much white space may stand in one place of a text whose words are counted: a model would fill its
budget with it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A state before it has a number."""

    in_word: bool = False
    rest: Ranges = ()
    """What is still to come of a character that has begun."""
    begun: bytes = b""
    """Its bytes, while it may become white space."""
    spaces: int = 0
    """Characters of white space just before."""

    def after(self, byte: int, *, counts_words: bool) -> tuple[_Place, int] | None:
        """The place after one more byte, and what that adds to the count; None where it is not UTF-8."""
        if self.rest:
            (low, high), *others = self.rest
            if not low <= byte <= high:
                return None
            rest, begun = tuple(others), self.begun and self.begun + bytes((byte,))
        else:
            found = next((others for low, high, others in _LEADS if low <= byte <= high), None)
            if found is None:
                return None
            rest, begun = found, bytes((byte,))
            if not counts_words:
                return _Place(rest=rest), 1
        if begun in _SPACE_BEGINNINGS:
            if rest:
                return _Place(self.in_word, rest, begun, self.spaces), 0
            return (_Place(spaces=self.spaces + 1), 0) if self.spaces < MAX_SPACES else None
        # A word counts from the byte on that cannot be of white space any more.
        is_new = bool(begun) and not self.in_word
        return _Place(in_word=counts_words, rest=rest), int(is_new)


class CountingAutomaton:
    """Reads text and counts. Immutable; a state is a multiple of 256.

    start     the state of the empty text
    cells     the state after a byte at ``[state + byte]``, plus 1 where the count rises
    dead      the state of a text that is not UTF-8, which is never left
    """

    start = 0

    def __init__(self, unit: Unit) -> None:
        numbers = {_Place(): 0}
        places = [_Place()]
        rows: list[list[tuple[_Place, int] | None]] = []
        for place in places:  # grows meanwhile
            row = [place.after(byte, counts_words=unit == "words") for byte in range(256)]
            for found in row:
                if found is not None and found[0] not in numbers:
                    numbers[found[0]] = len(places)
                    places.append(found[0])
            rows.append(row)
        self.unit = unit
        self.dead = len(places) * 256
        table = np.full((len(places) + 1, 256), self.dead, dtype=np.int32)
        for number, row in enumerate(rows):
            for byte, found in enumerate(row):
                if found is not None:
                    table[number, byte] = numbers[found[0]] * 256 + found[1]
        self.table: NDArray[np.int32] = table
        self.cells = table.reshape(-1).data
        self.whole = frozenset(number * 256 for number, place in enumerate(places) if not place.rest)
        """The states between two characters."""

    def walk(self, state: int, text: bytes) -> tuple[int, int]:
        """The state after `text`, and how much the count has risen."""
        cells = self.cells
        count = 0
        for byte in text:
            cell = cells[state + byte]
            count += cell & 1
            state = cell & -256
        return state, count


@cache
def counting_automaton(unit: Unit) -> CountingAutomaton:
    """The automaton of a unit, made once."""
    return CountingAutomaton(unit)


class Reading:
    """What the tokens of a vocabulary are, read from one state. Immutable.

    `positions` are those that may follow, the ones that count least first; `most` is the most that
    one of them adds to the count.
    """

    def __init__(self, vocabulary: SortedVocabulary, positions: Positions, counts: NDArray[np.int32]) -> None:
        """`counts`: what each of `positions` adds."""
        self._vocabulary = vocabulary
        self.positions = positions[np.argsort(counts, kind="stable")]
        self._totals: list[int] = np.cumsum(np.bincount(counts, minlength=1)).tolist()
        self.most = len(self._totals) - 1
        self._row = vocabulary.row(positions)

    def within(self, budget: int) -> MaskRow:
        """A new row of the tokens that add at most `budget` to the count."""
        total = self._totals[min(budget, self.most)]
        if 2 * total < self.positions.size:
            return self._vocabulary.row(self.positions[:total])
        # Most of them: taking the others out is quicker.
        return self._row & ~self._vocabulary.row(self.positions[total:])


def read_tokens(vocabulary: SortedVocabulary, automaton: CountingAutomaton, state: int) -> Reading:
    """Read every token from a state; made once for each vocabulary, in milliseconds."""

    def read() -> Reading:
        if state in automaton.whole:
            order, columns = vocabulary.all_columns
        else:
            low, high = vocabulary.between(b"\x80", b"\xc0")
            order, columns = vocabulary.columns(np.arange(low, high, dtype=np.int64))
        flat = automaton.table.reshape(-1)
        states = np.full(order.size, state, dtype=np.int32)
        counts = np.zeros(order.size, dtype=np.int32)
        for column in columns:
            cells = flat[states[: column.size] + column]
            counts[: column.size] += cells & 1
            states[: column.size] = cells & -256
        alive = states != automaton.dead
        return Reading(vocabulary, order[alive], counts[alive])

    return vocabulary.derive(("count", automaton.unit, state), read)
