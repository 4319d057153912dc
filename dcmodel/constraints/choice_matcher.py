"""Many texts, of which one is chosen: ranges of a sorted list instead of an engine's automaton."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dcmodel.constraint import CompiledConstraint, Explanation, MaskRow, Walker
from dcmodel.constraints.explain import explain_from_mask, join_bytes, show
from dcmodel.constraints.plain import PlainMatcher, no_end_token, row_of
from dcmodel.constraints.sorted_vocabulary import sorted_vocabulary
from dcmodel.constraints.token_trie import TokenTrie
from dcmodel.mask import mask_words, row_from_ids
from dctokenizers import Tokenizer, TokenizerError

MAX_ROWS = 512
"""Masks that are kept; of 200,000 tokens one takes 25 kB."""
MAX_FORCED_BYTES = 10_000
CONTEXT_BYTES = 200
"""How far back the text so far can change how what follows is tokenized."""


@dataclass(frozen=True, slots=True)
class Place:
    """The options ``[low, high)`` of the sorted list. They share the first `depth` bytes, the text so far."""

    low: int
    high: int
    depth: int


@dataclass(frozen=True, slots=True)
class Next:
    """What may follow at a place."""

    row: MaskRow
    """Tokens of text and, where the text is complete, the ends. Read-only."""
    forced: tuple[int, ...]


class ChoiceCompiled(CompiledConstraint):
    """Options as a sorted list of bytes, and the masks that were asked for."""

    def __init__(self, options: Sequence[str], tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._options = sorted(option.encode() for option in options)
        lengths = np.fromiter(map(len, self._options), dtype=np.int64, count=len(self._options))
        self._lengths = lengths
        self._starts = np.cumsum(lengths) - lengths
        self._text = np.frombuffer(b"".join(self._options), dtype=np.uint8)
        self._vocabulary = sorted_vocabulary(tokenizer)
        self._trie = self._vocabulary.derive("token_trie", lambda: TokenTrie(self._vocabulary))
        self._lock = threading.Lock()
        self._known: OrderedDict[Place, Next] = OrderedDict()
        self.root = Place(0, len(self._options), 0)
        # It costs milliseconds, and every request begins with it.
        self._root_next = self._make(self.root)

    def matcher(self) -> ChoiceMatcher:
        return ChoiceMatcher(self)

    def walker(self) -> ChoiceWalker:
        return ChoiceWalker(self, self.root)

    def move(self, place: Place, text: bytes) -> Place | None:
        """The place after `text`, or None where no option has it there."""
        options = self._options
        prefix = options[place.low][: place.depth] + text
        low = bisect_left(options, prefix, place.low, place.high)
        if low == place.high or not options[low].startswith(prefix):
            return None
        high = place.high
        stem = prefix.rstrip(b"\xff")
        if stem:
            high = bisect_left(options, stem[:-1] + bytes((stem[-1] + 1,)), low, place.high)
        return Place(low, high, len(prefix))

    def is_complete(self, place: Place) -> bool:
        """Whether the text so far is an option; it is the first of those that begin with it."""
        return len(self._options[place.low]) == place.depth

    def is_last(self, place: Place) -> bool:
        """Whether the text so far is an option that no other continues."""
        return place.high - place.low == 1 and self.is_complete(place)

    def following(self, place: Place) -> int:
        """The bytes that may come next, as 256 bits."""
        bits, low = 0, place.low + self.is_complete(place)
        while low < place.high:
            byte = self._options[low][place.depth]
            bits |= 1 << byte
            after = self.move(Place(low, place.high, place.depth), bytes((byte,)))
            assert after is not None
            low = after.high
        return bits

    def next_at(self, place: Place) -> Next:
        """The mask and the forced tokens at a place, kept for the next time."""
        if place == self.root:
            return self._root_next
        with self._lock:
            known = self._known.get(place)
            if known is not None:
                self._known.move_to_end(place)
                return known
        made = self._make(place)
        with self._lock:
            self._known[place] = made
            if len(self._known) > MAX_ROWS:
                self._known.popitem(last=False)
        return made

    def _make(self, place: Place) -> Next:
        forced = self._forced(place)
        vocab_size = self.tokenizer.vocab_size
        if forced:
            row = row_of(forced[:1], vocab_size)
        else:
            ends = self.tokenizer.eos_token_ids if self.is_complete(place) else ()
            span = slice(place.low, place.high)
            token_ids = self._trie.tokens_along(
                self._text, self._starts[span] + place.depth, self._lengths[span] - place.depth
            )
            row = np.empty(mask_words(vocab_size), dtype=np.int32)
            row_from_ids([*token_ids.tolist(), *ends], vocab_size, row)
        row.flags.writeable = False
        return Next(row, forced)

    def _forced(self, place: Place) -> tuple[int, ...]:
        """The usual tokens of the text that all options have in common next, as far as they are certain."""
        first, last = self._options[place.low], self._options[place.high - 1]
        text = _common(first[place.depth :], last[place.depth : place.depth + MAX_FORCED_BYTES])
        if not text:
            return ()
        token_ids = self._usual_tokens(first[max(place.depth - CONTEXT_BYTES, 0) : place.depth], text)
        end = self.move(place, text)
        if end is None or not self.tokenizer.special_token_ids.isdisjoint(token_ids):
            return ()
        return tuple(self._certain(token_ids, text, self.following(end)))

    def _usual_tokens(self, before: bytes, text: bytes) -> list[int]:
        """The tokens of `text` as the tokenizer makes them after `before`, or else by itself; or none."""
        for context in dict.fromkeys((before, b"")):
            try:
                token_ids = self.tokenizer.encode_bytes(context + text)
            except TokenizerError:
                return []
            at = 0
            while token_ids and at < len(context):
                at += len(self.tokenizer.token_bytes(token_ids.pop(0)))
            if at == len(context) and self.tokenizer.decode_bytes(token_ids, skip_special=False) == text:
                return token_ids
        return []

    def _certain(self, token_ids: list[int], text: bytes, following: int) -> list[int]:
        """Without the last tokens that may become one with what follows."""
        nexts = [byte for byte in range(256) if following >> byte & 1]
        start = 0
        for index, token_id in enumerate(token_ids):
            if len(text) - start < self._vocabulary.longest:
                for byte in nexts:
                    low, high = self._vocabulary.beginning_with(text[start:] + bytes((byte,)))
                    if low < high:
                        return token_ids[:index]
            start += len(self.tokenizer.token_bytes(token_id))
        return token_ids


def _common(one: bytes, other: bytes) -> bytes:
    """What both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))]


class ChoiceMatcher(PlainMatcher):
    """One sequence under a `ChoiceCompiled`."""

    __slots__ = ("_coming", "_compiled", "_places")

    def __init__(self, compiled: ChoiceCompiled) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled
        self._places = [compiled.root]
        self._coming = compiled.root

    def _allows(self, token_id: int) -> bool:
        if not 0 <= token_id < self._tokenizer.vocab_size or token_id in self._tokenizer.special_token_ids:
            return False
        text = self._tokenizer.token_bytes(token_id)
        place = self._compiled.move(self._places[-1], text) if text else None
        if place is None:
            return False
        self._coming = place
        return True

    def _pushed(self, token_id: int) -> None:
        self._places.append(self._coming)

    def _popped(self, count: int) -> None:
        del self._places[-count:]

    def _fill(self, row: MaskRow) -> None:
        place = self._places[-1]
        if self._compiled.is_last(place) and not self._tokenizer.eos_token_ids:
            raise no_end_token()
        row[:] = self._compiled.next_at(place).row

    def forced(self) -> list[int]:
        return [] if self._ends else list(self._compiled.next_at(self._places[-1]).forced)

    def explain(self, token_id: int) -> Explanation:
        text = join_bytes(self._tokenizer, self._token_ids)
        detail = "The text has ended." if self._ends else ""
        if not detail and self.forced() and self._allows(token_id):
            coming = join_bytes(self._tokenizer, self.forced())
            detail = f"The text {show(coming)} must come next, in its usual tokens."
        return explain_from_mask(
            self, self._tokenizer, token_id, text, detail=detail, walker=self._compiled.walker
        )

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or self._compiled.is_complete(self._places[-1])

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or self._compiled.is_last(self._places[-1])

    def fork(self) -> ChoiceMatcher:
        twin = ChoiceMatcher(self._compiled)
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        twin._places = self._places.copy()
        return twin


class ChoiceWalker(Walker):
    """One text under a `ChoiceCompiled`."""

    __slots__ = ("_compiled", "_place")

    def __init__(self, compiled: ChoiceCompiled, place: Place) -> None:
        self._compiled = compiled
        self._place = place

    def following(self) -> int:
        return self._compiled.following(self._place)

    def step(self, byte: int) -> bool:
        place = self._compiled.move(self._place, bytes((byte,)))
        if place is None:
            return False
        self._place = place
        return True

    @property
    def is_accepting(self) -> bool:
        return self._compiled.is_complete(self._place)

    def fork(self) -> ChoiceWalker:
        return ChoiceWalker(self._compiled, self._place)
