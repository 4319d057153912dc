"""One part after the other, where no single grammar is sure to say it: all ways to divide the text at once.

A state holds the parts that the text may be in, each with a matcher and a walker of its own. The mask is
the union of their masks and of tokens that lie across a border: those are found along the vocabulary,
byte by byte, with the walkers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcmodel.constraint import CompiledConstraint, MaskRow, Matcher, Walker
from dcmodel.constraints.algebra.crossing import crossing_tokens
from dcmodel.constraints.algebra.walkers import ThenWalker
from dcmodel.constraints.plain import PlainMatcher, row_of
from dcmodel.constraints.sorted_vocabulary import sorted_vocabulary
from dcmodel.errors import CapabilityError, DeadEndError
from dcmodel.mask import row_from_ids
from dctokenizers import Tokenizer, TokenizerError

MAX_PLACES = 48
"""How many ways to divide the text are kept; of more, those that began the last part latest are dropped."""


@dataclass(frozen=True, slots=True)
class Place:
    """A part that the text may be in. Neither matcher nor walker is ever moved in place."""

    part: int
    begin: int
    """The byte of the whole text where the part begins."""
    matcher: Matcher
    walker: Walker | None
    """None for a rule about tokens, which begins and ends at token borders."""


class ConcatCompiled(CompiledConstraint):
    """Compiled parts, one after the other."""

    def __init__(self, parts: Sequence[CompiledConstraint], tokenizer: Tokenizer) -> None:
        self.parts = tuple(parts)
        self.tokenizer = tokenizer
        self.is_open = any(part.matcher().may_dead_end for part in parts)
        self.end_row = row_of(tokenizer.eos_token_ids, tokenizer.vocab_size)
        self.vocabulary = sorted_vocabulary(tokenizer)

    def matcher(self) -> ConcatMatcher:
        return ConcatMatcher(self, [(0, self.closed([self.begin(0, 0)]))])

    def walker(self) -> Walker:
        return ThenWalker([part.walker for part in self.parts])

    def begin(self, part: int, at: int) -> Place:
        """A part at its beginning."""
        compiled = self.parts[part]
        try:
            walker: Walker | None = compiled.walker()
        except CapabilityError:
            walker = None
        return Place(part, at, compiled.matcher(), walker)

    def closed(self, places: list[Place], at: int = 0) -> tuple[Place, ...]:
        """Where a part is complete at byte `at`, the next one may begin."""
        begun = {place.part for place in places if place.begin == at}
        for place in places:  # grows while it is read
            following = place.part + 1
            if following < len(self.parts) and following not in begun and place.matcher.is_accepting:
                begun.add(following)
                places.append(self.begin(following, at))
        places.sort(key=lambda place: (place.part, place.begin))
        return tuple(places[:MAX_PLACES])


class ConcatMatcher(PlainMatcher):
    """One sequence under a `ConcatCompiled`."""

    __slots__ = ("_compiled", "_is_narrowed", "_scratch", "_states")

    def __init__(self, compiled: ConcatCompiled, states: list[tuple[int, tuple[Place, ...]]]) -> None:
        """`states`: before and after each token, how many bytes the text has and where it may be."""
        super().__init__(compiled.tokenizer)
        self._compiled = compiled
        self._states = states
        self._is_narrowed = False
        self._scratch: MaskRow | None = None

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the text may be, the earliest part first."""
        return self._states[-1][1]

    def _fill(self, row: MaskRow) -> None:
        compiled = self._compiled
        if self._scratch is None:
            self._scratch = np.empty(self._words, dtype=np.int32)
        row[:] = 0
        error: DeadEndError | None = None
        for place in self.places:
            try:
                place.matcher.fill_mask(self._scratch)
            except DeadEndError as dead_end:
                error = dead_end
            else:
                row |= self._scratch
        row &= ~compiled.end_row
        self._add_crossing(row)
        if self.is_accepting:
            row |= compiled.end_row
        if error is not None and not row.any():
            raise error

    def _add_crossing(self, row: MaskRow) -> None:
        last = len(self._compiled.parts) - 1
        walkers = [
            (place.part, place.walker)
            for place in self.places
            if place.walker is not None and place.part < last
        ]
        begin = [part.walker for part in self._compiled.parts]
        token_ids = crossing_tokens(self._compiled.vocabulary, row, walkers, begin)
        if token_ids:
            assert self._scratch is not None
            row_from_ids(token_ids, self._compiled.tokenizer.vocab_size, self._scratch)
            row |= self._scratch

    def _allows(self, token_id: int) -> bool:
        """Moves to the places where the text may be after the token."""
        tokenizer = self._compiled.tokenizer
        text = b"" if token_id in tokenizer.special_token_ids else tokenizer.token_bytes(token_id)
        moved: list[Place] = []
        for place in self.places:
            matcher = place.matcher.fork()
            if matcher.advance([token_id]):
                moved.append(Place(place.part, place.begin, matcher, _moved(place.walker, text)))
            self._is_narrowed |= matcher.was_narrowed
        moved += self._crossed(text)
        if not moved:
            return False
        length = self._states[-1][0] + len(text)
        self._states.append((length, self._compiled.closed(moved, length)))
        return True

    def _crossed(self, text: bytes) -> list[Place]:
        """The parts that the text may be in if a border lies inside this token."""
        start = self._states[-1][0]
        active = [
            (place.part, place.begin, place.walker) for place in self.places if place.walker is not None
        ]
        begun: list[tuple[int, int, Walker]] = []
        for offset, byte in enumerate(text[:-1], start=1):
            stepped = []
            for part, begin, walker in [*active, *begun]:
                twin = walker.fork()
                if twin.step(byte):
                    stepped.append((part, begin, twin))
            active = [item for item in stepped if item[1] <= start]
            begun = [item for item in stepped if item[1] > start]
            self._begin_next([*active, *begun], begun, start + offset)
        places = []
        for part, begin, _ in begun:
            place = self._begun(part, begin, text[begin - start :])
            if place is not None:
                places.append(place)
        return places

    def _begin_next(
        self, states: list[tuple[int, int, Walker]], begun: list[tuple[int, int, Walker]], at: int
    ) -> None:
        for part, _, walker in states:  # grows while it is read
            following = part + 1
            is_new = not any(item[0] == following and item[1] == at for item in begun)
            if following < len(self._compiled.parts) and is_new and walker.is_accepting:
                place = self._compiled.begin(following, at)
                if place.walker is not None:
                    begun.append((following, at, place.walker))
                    states.append(begun[-1])

    def _begun(self, part: int, begin: int, text: bytes) -> Place | None:
        place = self._compiled.begin(part, begin)
        try:
            token_ids = self._compiled.tokenizer.encode_bytes(text)
        except TokenizerError:
            return None
        if place.matcher.advance(token_ids) < len(token_ids):
            return None
        return Place(part, begin, place.matcher, _moved(place.walker, text))

    def forced(self) -> list[int]:
        places = self.places
        if self._ends or len(places) != 1 or places[0].matcher.is_accepting:
            return []
        run = places[0].matcher.forced()
        is_last = places[0].part == len(self._compiled.parts) - 1
        # The last token may grow into what the next part begins with.
        return run if is_last else run[:-1]

    @property
    def is_accepting(self) -> bool:
        last = len(self._compiled.parts) - 1
        return self._ends > 0 or any(
            place.part == last and place.matcher.is_accepting for place in self.places
        )

    @property
    def is_finished(self) -> bool:
        last = len(self._compiled.parts) - 1
        return self._ends > 0 or all(
            place.part == last and place.matcher.is_finished for place in self.places
        )

    @property
    def is_exact(self) -> bool:
        return all(place.matcher.is_exact for place in self.places)

    @property
    def may_dead_end(self) -> bool:
        return self._compiled.is_open

    def ways_out(self) -> list[int]:
        last = len(self._compiled.parts) - 1
        found: set[int] = set()
        for place in self.places:
            ways = place.matcher.ways_out()
            found.update(ways if place.part == last else set(ways).difference(self._eos))
        return sorted(found)

    @property
    def was_narrowed(self) -> bool:
        return self._is_narrowed

    @property
    def releasable(self) -> int | None:
        ends = [place.begin + end for place in self.places if (end := place.matcher.releasable) is not None]
        return min(ends, default=None)

    @property
    def may_wait(self) -> bool:
        return any(place.matcher.may_wait for place in self.places)

    @property
    def sampling(self) -> Mapping[str, Any]:
        """That of the earliest part that may go on."""
        return next((place.matcher.sampling for place in self.places if not place.matcher.is_finished), {})

    def fork(self) -> ConcatMatcher:
        twin = ConcatMatcher(self._compiled, self._states.copy())
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        twin._is_narrowed = self._is_narrowed
        return twin

    def _walker_maker(self) -> Callable[[], Walker]:
        return self._compiled.walker

    def _popped(self, count: int) -> None:
        del self._states[-count:]


def _moved(walker: Walker | None, text: bytes) -> Walker | None:
    if walker is None:
        return None
    twin = walker.fork()
    twin.walk(text)
    return twin
