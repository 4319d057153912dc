"""The bytes of every token id."""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property

from dctokenizers.errors import TokenIdError, TokenizerError

_LONGEST_FRAGMENT = 4


class Vocabulary:
    """Bytes per id, and which ids are special. Immutable; shared between threads and tokenizers.

    `tokens[i]` is ``b""`` where no token has the id `i`; a special token's bytes are its literal text.
    """

    def __init__(self, tokens: Iterable[bytes], special_token_ids: Iterable[int]) -> None:
        self.tokens = tuple(tokens)
        self.special_token_ids = frozenset(special_token_ids)
        self._check_range(self.special_token_ids)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the size, the bytes of every id and the special ids."""
        digest = hashlib.sha256(b"dctokenizers vocabulary 1\n")
        for numbers in ([len(self.tokens)], map(len, self.tokens), sorted(self.special_token_ids), [0]):
            packed = array("I", numbers)
            if sys.byteorder == "big":
                packed.byteswap()
            digest.update(packed.tobytes())
        digest.update(b"".join(self.tokens))
        return digest.hexdigest()

    def join(self, token_ids: Sequence[int], *, skip_special: bool) -> bytes:
        """The bytes of a run of tokens. Raises `TokenIdError` for an id outside the vocabulary."""
        tokens = self.tokens
        if skip_special and not self.special_token_ids.isdisjoint(token_ids):
            token_ids = [token_id for token_id in token_ids if token_id not in self.special_token_ids]
        try:
            parts = [tokens[token_id] for token_id in token_ids]
        except IndexError:
            self._check_range(token_ids)
            raise
        if len(token_ids) and min(token_ids) < 0:
            self._check_range(token_ids)
        return b"".join(parts)

    def cover(self, data: bytes) -> list[int]:
        """Ids of ordinary tokens that spell `data`, longest first; for fragments of characters.

        Raises `TokenizerError` for a byte that no token spells.
        """
        token_ids = self.cover_prefix(data)
        covered = sum(len(self.tokens[token_id]) for token_id in token_ids)
        if covered < len(data):
            raise TokenizerError(f"No token of this vocabulary spells the byte 0x{data[covered]:02x}.")
        return token_ids

    def cover_prefix(self, data: bytes) -> list[int]:
        """As `cover`, but up to the first byte that no token spells."""
        token_ids = []
        start = 0
        while start < len(data):
            for stop in range(min(len(data), start + _LONGEST_FRAGMENT), start, -1):
                token_id = self._fragments.get(data[start:stop])
                if token_id is not None:
                    break
            else:
                break
            token_ids.append(token_id)
            start = stop
        return token_ids

    @cached_property
    def _fragments(self) -> dict[bytes, int]:
        fragments: dict[bytes, int] = {}
        for token_id, token in enumerate(self.tokens):
            if 0 < len(token) <= _LONGEST_FRAGMENT and token_id not in self.special_token_ids:
                fragments.setdefault(token, token_id)
        return fragments

    def _check_range(self, token_ids: Iterable[int]) -> None:
        for token_id in token_ids:
            if not 0 <= token_id < len(self.tokens):
                raise TokenIdError(
                    f"Token id {token_id} is outside the vocabulary of {len(self.tokens)} ids."
                )
