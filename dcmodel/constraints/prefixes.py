"""Texts that others begin with, and texts that begin with others."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from json import dumps
from typing import Any

from dcmodel.constraint import CompiledConstraint, Constraint, MaskRow, Walker
from dcmodel.constraints.algebra.regular import compile_terminal
from dcmodel.constraints.checked_texts import checked_texts
from dcmodel.constraints.plain import row_of
from dcmodel.constraints.walking import TextTokens, WalkingMatcher
from dcmodel.errors import InvalidConstraintError
from dctokenizers import Tokenizer

MAX_FORCED_CHARACTERS = 10_000
MAX_TERMINAL = 20_000
"""Characters of all beginnings together, up to which `PrefixOf` is also a terminal."""


class StartsWith(Constraint):
    """The text begins with one of `texts`; what comes after is free."""

    kind = "starts_with"

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = checked_texts(texts, what="text")

    @property
    def key(self) -> Hashable:
        return (self.kind, frozenset(self.texts))

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        forcing = max(map(len, self.texts)) <= MAX_FORCED_CHARACTERS
        return compile_terminal(self.terminal(), tokenizer, label="the beginning", forcing=forcing)

    def terminal(self) -> str:
        return f"(({' | '.join(map(dumps, self.texts))}) /(?s:.*)/)"

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "texts": list(self.texts)}


class PrefixOf(Constraint):
    """The text is a beginning of one of `texts`, perhaps the whole, of at least `minimum` characters.

    Texts of any length. One of less than `minimum` characters is an `InvalidConstraintError`.
    """

    kind = "prefix_of"

    def __init__(self, texts: Iterable[str], minimum: int = 1) -> None:
        self.texts = checked_texts(texts, what="text")
        self.minimum = minimum
        if type(minimum) is not int or minimum < 0:
            raise InvalidConstraintError(
                f"the minimum is {minimum!r:.40}.", remedy="Give a whole number of characters."
            )
        shortest = min(self.texts, key=len)
        if len(shortest) < minimum:
            raise InvalidConstraintError(
                f"the text {shortest!r:.40} has less than {minimum} characters.",
                remedy="Leave it out, or ask for less.",
            )

    @property
    def key(self) -> Hashable:
        return (self.kind, frozenset(self.texts), self.minimum)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return CompiledPrefixOf(Beginnings(self.texts, self.minimum), tokenizer)

    def terminal(self) -> str | None:
        # Optional groups inside one another are too deep for the engine's parser; all beginnings are
        # many, if the texts are long.
        if sum(len(text) * (len(text) + 1) // 2 for text in self.texts) > MAX_TERMINAL:
            return None
        beginnings = {text[:n]: None for text in self.texts for n in range(self.minimum, len(text) + 1)}
        return f"({' | '.join(map(dumps, beginnings))})"

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "texts": list(self.texts), "minimum": self.minimum}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text is: the sorted texts that begin with it are ``[low, high)``."""

    low: int
    high: int
    length: int
    """In bytes."""
    characters: int
    """Those that have begun."""


class Beginnings:
    """Texts in the order of their bytes, and the places among their beginnings. Immutable."""

    def __init__(self, texts: Iterable[str], minimum: int) -> None:
        self.texts = sorted(text.encode() for text in texts)
        self.minimum = minimum
        self.start = Place(0, len(self.texts), 0, 0)

    def after(self, place: Place, more: bytes) -> Place | None:
        """The place after more bytes, which are not none; None where no text goes on so."""
        begin, end = place.length, place.length + len(more)
        # Texts of one place differ only from there on, and are sorted by what comes then.
        low = bisect_left(self.texts, more, place.low, place.high, key=lambda text: text[begin:end])
        high = bisect_right(self.texts, more, low, place.high, key=lambda text: text[begin:end])
        if low == high:
            return None
        begun = sum(byte & 0xC0 != 0x80 for byte in more)
        return Place(low, high, end, place.characters + begun)

    def rests(self, place: Place, longest: int) -> set[bytes]:
        """How the texts may go on, cut off after `longest` bytes."""
        begin, end = place.length, place.length + longest
        return {text[begin:end] for text in self.texts[place.low : place.high]} - {b""}

    def next_bytes(self, place: Place) -> list[int]:
        """The bytes that the texts may go on with."""
        found = []
        here = place.low + (len(self.texts[place.low]) == place.length)
        while here < place.high:
            byte = self.texts[here][place.length]
            found.append(byte)
            here = bisect_right(self.texts, byte, here, place.high, key=lambda text: text[place.length])
        return found

    def is_accepting(self, place: Place) -> bool:
        """Whether the text may end here: long enough, and not inside a character."""
        rest = self.texts[place.low][place.length : place.length + 1]
        is_whole = not rest or rest[0] & 0xC0 != 0x80
        return is_whole and place.characters >= self.minimum

    def is_at_end(self, place: Place) -> bool:
        """Whether no text goes on."""
        return len(self.texts[place.high - 1]) == place.length


class CompiledPrefixOf(CompiledConstraint):
    """A `PrefixOf` for one vocabulary."""

    def __init__(self, beginnings: Beginnings, tokenizer: Tokenizer) -> None:
        self.beginnings = beginnings
        self.shared = TextTokens(tokenizer)
        # With many texts the first mask is the dearest by far.
        self.mask(beginnings.start)

    def matcher(self) -> PrefixOfMatcher:
        return PrefixOfMatcher(self)

    def walker(self) -> PrefixOfWalker:
        return PrefixOfWalker(self.beginnings, self.beginnings.start)

    def mask(self, place: Place) -> MaskRow:
        """The mask of a place."""
        key = (place.low, place.length)
        row = self.shared.masks.get(key)
        if row is None:
            ids_of = self.shared.vocabulary.ids_of
            rests = self.beginnings.rests(place, self.shared.vocabulary.longest)
            tokens = {rest[:n] for rest in rests for n in range(1, len(rest) + 1)} & ids_of.keys()
            token_ids = (token_id for token in tokens for token_id in ids_of[token])
            text = row_of(token_ids, self.shared.tokenizer.vocab_size)
            row = self.shared.mask(text, accepting=self.beginnings.is_accepting(place))
            self.shared.masks.put(key, row)
        return row


class PrefixOfMatcher(WalkingMatcher[Place]):
    """One sequence under a `PrefixOf`."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: CompiledPrefixOf) -> None:
        super().__init__(compiled.shared, compiled.beginnings.start)
        self._compiled = compiled

    def _moved(self, state: Place, text: bytes) -> Place | None:
        return self._compiled.beginnings.after(state, text)

    def _mask(self, state: Place) -> MaskRow:
        return self._compiled.mask(state)

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or self._compiled.beginnings.is_accepting(self._states[-1])

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or self._compiled.beginnings.is_at_end(self._states[-1])

    def fork(self) -> PrefixOfMatcher:
        return self._copy_to(PrefixOfMatcher(self._compiled))


class PrefixOfWalker(Walker):
    """One text under a `PrefixOf`, byte by byte."""

    __slots__ = ("_beginnings", "_place")

    def __init__(self, beginnings: Beginnings, place: Place) -> None:
        self._beginnings = beginnings
        self._place = place

    def following(self) -> int:
        return sum(1 << byte for byte in self._beginnings.next_bytes(self._place))

    def step(self, byte: int) -> bool:
        after = self._beginnings.after(self._place, bytes((byte,)))
        if after is None:
            return False
        self._place = after
        return True

    @property
    def is_accepting(self) -> bool:
        return self._beginnings.is_accepting(self._place)

    def fork(self) -> PrefixOfWalker:
        return PrefixOfWalker(self._beginnings, self._place)
