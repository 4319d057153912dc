"""The same set of allowed tokens at every step."""

from __future__ import annotations

import base64
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from dcmodel.constraint import CompiledConstraint, Constraint, MaskRow
from dcmodel.constraints.plain import PlainMatcher, row_of
from dcmodel.errors import InvalidConstraintError
from dcmodel.mask import TokenMask, mask_words, row_allows, row_to_ids
from dctokenizers import Tokenizer


class FixedMask(Constraint):
    """Every token out of one mask; the text may end where the mask holds an end-of-sequence token.

    Of several such tokens only those of the mask are allowed. The mask is one of the model's vocabulary:
    `compile` raises `InvalidConstraintError` for another size. `TokenSet` counts as well.
    """

    kind = "fixed_mask"

    def __init__(self, mask: TokenMask | str, vocab_size: int | None = None) -> None:
        """`mask` may be the base64 of its packed words (as in `to_dict`), then with the vocabulary's size."""
        self.mask = mask if isinstance(mask, TokenMask) else _unpacked(mask, vocab_size)
        if not len(self.mask):
            raise InvalidConstraintError("the mask allows no token.", remedy="Allow at least one.")
        self._key = (self.kind, self.mask.vocab_size, self.mask.bits.tobytes())

    @property
    def is_about_tokens(self) -> bool:
        return True

    @property
    def key(self) -> Hashable:
        return self._key

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        if self.mask.vocab_size != tokenizer.vocab_size:
            raise InvalidConstraintError(
                f"the mask is over {self.mask.vocab_size} tokens, and the vocabulary has "
                f"{tokenizer.vocab_size}.",
                remedy="Make the mask for the model's own tokenizer.",
            )
        return _CompiledFixedMask(self.mask, tokenizer)

    def to_dict(self) -> Mapping[str, Any]:
        packed = self.mask.bits.astype("<i4").tobytes()
        return {
            "kind": self.kind,
            "mask": base64.b64encode(packed).decode("ascii"),
            "vocab_size": self.mask.vocab_size,
        }


def _unpacked(mask: str, vocab_size: int | None) -> TokenMask:
    if type(vocab_size) is not int or vocab_size < 1:
        raise InvalidConstraintError(
            f"the vocabulary's size is {vocab_size!r:.40}.", remedy="Give a whole number above 0."
        )
    try:
        packed = base64.b64decode(mask, validate=True)
    except (ValueError, TypeError) as error:
        raise InvalidConstraintError(
            f"the mask is not base64: {error}.", remedy="Send packed words of 32 bits."
        ) from None
    if len(packed) != 4 * mask_words(vocab_size):
        raise InvalidConstraintError(
            f"the mask has {len(packed)} bytes, not {4 * mask_words(vocab_size)}.",
            remedy="Send packed words of 32 bits.",
        )
    return TokenMask(np.frombuffer(packed, dtype="<i4").astype(np.int32), vocab_size)


class _CompiledFixedMask(CompiledConstraint):
    def __init__(self, mask: TokenMask, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.row = mask.bits
        ends = row_of(tokenizer.eos_token_ids, tokenizer.vocab_size) & mask.bits
        self.end_row = ends
        self.may_end = bool(ends.any())
        self.only_ends = self.may_end and not (mask.bits & ~ends).any()
        self.forced = row_to_ids(mask.bits, mask.vocab_size).tolist()
        if len(self.forced) > 1 or self.may_end:
            self.forced = []

    def matcher(self) -> FixedMaskMatcher:
        return FixedMaskMatcher(self)


class FixedMaskMatcher(PlainMatcher):
    """One sequence under a `FixedMask`."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: _CompiledFixedMask) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled

    def _allows(self, token_id: int) -> bool:
        return row_allows(self._compiled.row, token_id)

    def _fill(self, row: MaskRow) -> None:
        row[:] = self._compiled.row

    def fill_mask(self, row: MaskRow) -> None:
        super().fill_mask(row)
        if self._ends and self._compiled.may_end:
            row[: self._words] = self._compiled.end_row

    def advance(self, token_ids: Sequence[int]) -> int:
        ends = (place for place, item in enumerate(token_ids) if item in self._eos and not self._allows(item))
        return super().advance(token_ids[: next(ends, len(token_ids))])

    def forced(self) -> list[int]:
        return [] if self._ends else list(self._compiled.forced)

    @property
    def is_accepting(self) -> bool:
        return self._compiled.may_end

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or self._compiled.only_ends

    def fork(self) -> FixedMaskMatcher:
        twin = FixedMaskMatcher(self._compiled)
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        return twin
