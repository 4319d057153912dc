"""Free text up to a stop string, which may lie across token borders."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dcmodel.constraint import CompiledConstraint, Constraint, MaskRow
from dcmodel.constraints.plain import PlainMatcher, no_end_token, row_of
from dcmodel.errors import InvalidConstraintError
from dcmodel.mask import clear_tail, mask_words
from dctokenizers import Tokenizer


class Stop(Constraint):
    """Any text, until one of `strings` appears or the model ends it.

    The first stop string that is complete counts, the longest of those that end at the same byte.
    `include` keeps it in the text. Special tokens are not text, and not allowed.
    """

    kind = "stop"

    def __init__(self, strings: Iterable[str], include: bool = False) -> None:
        self.strings = (strings,) if isinstance(strings, str) else tuple(dict.fromkeys(strings))
        self.include = include
        if not isinstance(include, bool):
            raise InvalidConstraintError(f"include is {include!r:.40}.", remedy="Give true or false.")
        if not self.strings:
            raise InvalidConstraintError("there are no stop strings.", remedy="Give at least one.")
        for string in self.strings:
            _check_string(string)

    @property
    def key(self) -> Hashable:
        return (self.kind, self.strings, self.include)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return CompiledStop(StopSearch(self.strings), tokenizer, self.include)

    def to_dict(self) -> Mapping[str, Any]:
        return {"kind": self.kind, "strings": list(self.strings), "include": self.include}


def _check_string(string: object) -> None:
    if not isinstance(string, str) or not string:
        raise InvalidConstraintError(
            f"a stop string is {string!r:.40}.", remedy="Give texts, not empty ones."
        )
    try:
        string.encode()
    except UnicodeEncodeError as error:
        raise InvalidConstraintError(
            f"the stop string {string!r:.40} holds half a surrogate pair.", position=error.start
        ) from None


class StopSearch:
    """Finds stop strings in bytes that grow at the end. Immutable."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._needles = {string.encode(): string for string in strings}
        self._longest = max(map(len, self._needles), default=0)
        self._beginnings = frozenset(needle[:n] for needle in self._needles for n in range(1, len(needle)))

    def find(self, text: bytearray, start: int) -> tuple[int, int, str] | None:
        """Begin and end of the first match that ends after `start`, and its string."""
        best: tuple[int, int, str] | None = None
        for needle, string in self._needles.items():
            begin = text.find(needle, max(0, start - len(needle) + 1))
            if begin >= 0:
                end = begin + len(needle)
                if best is None or (end, begin) < (best[1], best[0]):
                    best = (begin, end, string)
        return best

    def held(self, text: bytearray) -> int:
        """How many bytes at the end may be the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if bytes(text[-length:]) in self._beginnings:
                return length
        return 0


def watch_stops(strings: Iterable[str], tokenizer: Tokenizer, *, include: bool = False) -> StopMatcher:
    """A matcher that watches any tokens at all, special and end-of-sequence ones too, for stop strings.

    It refuses tokens only after a match. Special tokens add nothing to the text.
    """
    return CompiledStop(StopSearch(Stop(strings).strings), tokenizer, include, any_token=True).matcher()


class CompiledStop(CompiledConstraint):
    """A `Stop` for one vocabulary."""

    def __init__(
        self, search: StopSearch, tokenizer: Tokenizer, include: bool, *, any_token: bool = False
    ) -> None:
        self.search = search
        self.tokenizer = tokenizer
        self.include = include
        self.any_token = any_token
        special = frozenset() if any_token else tokenizer.special_token_ids
        self.row = np.full(mask_words(tokenizer.vocab_size), -1, dtype=np.int32)
        clear_tail(self.row, tokenizer.vocab_size)
        self.row &= ~row_of(special.difference(tokenizer.eos_token_ids), tokenizer.vocab_size)

    def matcher(self) -> StopMatcher:
        return StopMatcher(self)


class StopMatcher(PlainMatcher):
    """One sequence under a `Stop`; also what watches `stop=` beside another constraint."""

    __slots__ = ("_begin", "_compiled", "_end", "_lengths", "_matched", "_text")

    def __init__(self, compiled: CompiledStop) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled
        self._text = bytearray()
        self._lengths: list[int] = []
        self._begin = self._end = -1
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that was found."""
        return self._matched

    @property
    def cut(self) -> int | None:
        """Where the text ends, in generated bytes: before the stop string, after it with `include`."""
        if self._matched is None:
            return None
        return self._end if self._compiled.include else self._begin

    @property
    def held(self) -> int:
        """How many of the last bytes may be the beginning of a stop string: a stream keeps them back."""
        return 0 if self._matched is not None else self._compiled.search.held(self._text)

    @property
    def length(self) -> int:
        """How many bytes were generated."""
        return len(self._text)

    @property
    def end(self) -> int:
        """Where the text ends as things stand: at `cut`, or after all that was generated."""
        cut = self.cut
        return len(self._text) if cut is None else cut

    def advance(self, token_ids: Sequence[int]) -> int:
        if not self._compiled.any_token:
            return super().advance(token_ids)
        for taken, token_id in enumerate(token_ids):
            if self._matched is not None:
                return taken
            self._token_ids.append(token_id)
            self._pushed(token_id)
        return len(token_ids)

    def _allows(self, token_id: int) -> bool:
        return self._matched is None and token_id not in self._tokenizer.special_token_ids

    def _pushed(self, token_id: int) -> None:
        before = len(self._text)
        self._lengths.append(before)
        if token_id in self._tokenizer.special_token_ids:
            return
        self._text += self._tokenizer.token_bytes(token_id)
        found = self._compiled.search.find(self._text, before)
        if found is not None:
            self._begin, self._end, self._matched = found

    def _popped(self, count: int) -> None:
        del self._text[self._lengths[-count] :]
        del self._lengths[-count:]
        self._matched = None

    def _fill(self, row: MaskRow) -> None:
        if self._matched is None:
            row[:] = self._compiled.row
        elif self._tokenizer.eos_token_ids:
            row[:] = row_of(self._tokenizer.eos_token_ids, self._tokenizer.vocab_size)
        else:
            raise no_end_token()

    @property
    def is_accepting(self) -> bool:
        return True

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or self._matched is not None

    def fork(self) -> StopMatcher:
        twin = StopMatcher(self._compiled)
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        twin._text, twin._lengths = self._text.copy(), self._lengths.copy()
        twin._begin, twin._end, twin._matched = self._begin, self._end, self._matched
        return twin
