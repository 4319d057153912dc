"""Packed token masks: bit 1 = allowed, lowest bit first, int32 words (as llguidance, xgrammar, vLLM)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcmodel.errors import InvalidRequestError, TokenRangeError

BITS = 32


def mask_words(vocab_size: int) -> int:
    """Number of int32 words that hold one bit for each of `vocab_size` tokens."""
    return -(-vocab_size // BITS)


def allocate_rows(rows: int, vocab_size: int) -> NDArray[np.int32]:
    """`rows` masks that allow everything, shape ``[rows, mask_words(vocab_size)]``."""
    return np.full((rows, mask_words(vocab_size)), -1, dtype=np.int32)


def clear_tail(row: NDArray[np.int32], vocab_size: int) -> None:
    """Set the bits past `vocab_size` to 0, in place."""
    words, rest = divmod(vocab_size, BITS)
    if rest:
        row[words] &= np.int32((1 << rest) - 1)
        words += 1
    row[words:] = 0


def row_from_ids(ids: Iterable[int], vocab_size: int, row: NDArray[np.int32]) -> None:
    """Write a mask that allows exactly `ids` (all below `vocab_size`) into `row`."""
    flags = np.zeros(row.shape[0] * BITS, dtype=np.uint8)
    flags[np.fromiter(ids, dtype=np.int64)] = 1
    row[:] = np.packbits(flags, bitorder="little").view(np.int32)


def row_to_bools(row: NDArray[np.int32], vocab_size: int) -> NDArray[np.bool_]:
    """One boolean per token, shape ``[vocab_size]``."""
    bits = np.unpackbits(np.ascontiguousarray(row).view(np.uint8), bitorder="little", count=vocab_size)
    return bits.view(np.bool_)


def row_to_ids(row: NDArray[np.int32], vocab_size: int) -> NDArray[np.int64]:
    """The allowed token ids, ascending."""
    return np.flatnonzero(row_to_bools(row, vocab_size))


def row_allows(row: NDArray[np.int32], token_id: int) -> bool:
    """Whether one token is allowed."""
    return bool((int(row[token_id // BITS]) >> (token_id % BITS)) & 1)


@dataclass(frozen=True, slots=True, eq=False)
class TokenMask:
    """An immutable set of allowed tokens over a vocabulary; `&`, `|`, `~` as on sets."""

    bits: NDArray[np.int32]
    """Packed words, read-only, shape ``[mask_words(vocab_size)]``; bits past the vocabulary are 0."""
    vocab_size: int

    def __post_init__(self) -> None:
        expected = mask_words(self.vocab_size)
        if self.bits.shape != (expected,) or self.bits.dtype != np.int32:
            raise InvalidRequestError(
                f"a mask over {self.vocab_size} tokens needs int32 words of shape ({expected},), "
                f"not {self.bits.dtype} {self.bits.shape}."
            )
        bits = self.bits.copy()
        clear_tail(bits, self.vocab_size)
        bits.flags.writeable = False
        object.__setattr__(self, "bits", bits)

    @classmethod
    def all(cls, vocab_size: int) -> TokenMask:
        return cls(np.full(mask_words(vocab_size), -1, dtype=np.int32), vocab_size)

    @classmethod
    def none(cls, vocab_size: int) -> TokenMask:
        return cls(np.zeros(mask_words(vocab_size), dtype=np.int32), vocab_size)

    @classmethod
    def from_ids(cls, ids: Iterable[int], vocab_size: int) -> TokenMask:
        """Allow exactly `ids`. Raises `TokenRangeError` for an id outside the vocabulary."""
        try:
            array = np.fromiter(ids, dtype=np.int64)
        except OverflowError:
            raise TokenRangeError(
                f"a token id is outside the vocabulary of {vocab_size} tokens.",
                remedy=f"Use ids from 0 to {vocab_size - 1}.",
            ) from None
        check_token_ids(array, vocab_size)
        bits = np.zeros(mask_words(vocab_size), dtype=np.int32)
        row_from_ids(array, vocab_size, bits)
        return cls(bits, vocab_size)

    @classmethod
    def from_bools(cls, allowed: NDArray[np.bool_]) -> TokenMask:
        """One boolean per token, shape ``[vocab_size]``."""
        vocab_size = allowed.shape[0]
        flags = np.zeros(mask_words(vocab_size) * BITS, dtype=np.uint8)
        flags[:vocab_size] = allowed
        return cls(np.packbits(flags, bitorder="little").view(np.int32), vocab_size)

    @classmethod
    def from_logit_bias(cls, bias: Mapping[int, float], vocab_size: int) -> TokenMask:
        """The hard mask that a dict of +-100 means (OpenAI, LMQL): any +100 allows only those with +100,
        else -100 bans. Other values are no mask, hence an `InvalidRequestError`.
        """
        wrong = [value for value in bias.values() if abs(value) != 100]
        if wrong:
            raise InvalidRequestError(f"a logit-bias mask holds +100 or -100 only, not {wrong[0]!r}.")
        allowed = [token for token, value in bias.items() if value > 0]
        if allowed:
            return cls.from_ids(allowed, vocab_size)
        return ~cls.from_ids(bias.keys(), vocab_size)

    def to_ids(self) -> list[int]:
        ids: list[int] = row_to_ids(self.bits, self.vocab_size).tolist()
        return ids

    def to_bools(self) -> NDArray[np.bool_]:
        return row_to_bools(self.bits, self.vocab_size)

    def to_logit_bias(self) -> dict[int, float]:
        """The shorter of the +100 (allowed) and -100 (banned) dicts."""
        if 2 * len(self) <= self.vocab_size:
            return dict.fromkeys(self.to_ids(), 100.0)
        return dict.fromkeys((~self).to_ids(), -100.0)

    def __and__(self, other: TokenMask) -> TokenMask:
        return TokenMask(self.bits & self._same_vocabulary(other), self.vocab_size)

    def __or__(self, other: TokenMask) -> TokenMask:
        return TokenMask(self.bits | self._same_vocabulary(other), self.vocab_size)

    def __invert__(self) -> TokenMask:
        return TokenMask(~self.bits, self.vocab_size)

    def __contains__(self, token_id: int) -> bool:
        return 0 <= token_id < self.vocab_size and row_allows(self.bits, token_id)

    def __len__(self) -> int:
        return int(np.bitwise_count(self.bits.view(np.uint32)).sum())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TokenMask)
            and self.vocab_size == other.vocab_size
            and bool((self.bits == other.bits).all())
        )

    def __hash__(self) -> int:
        return hash((self.vocab_size, self.bits.tobytes()))

    def _same_vocabulary(self, other: TokenMask) -> NDArray[np.int32]:
        if other.vocab_size != self.vocab_size:
            raise InvalidRequestError(
                f"masks over different vocabularies ({self.vocab_size} and {other.vocab_size} tokens) "
                "cannot be combined."
            )
        return other.bits


def check_token_ids(ids: NDArray[np.int64], vocab_size: int, *, what: str = "token id") -> None:
    """Raise `TokenRangeError` for the first id outside the vocabulary."""
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if wrong.size:
        raise TokenRangeError(
            f"{what} {int(wrong[0])} is outside the vocabulary of {vocab_size} tokens.",
            remedy=f"Use ids from 0 to {vocab_size - 1}.",
        )
