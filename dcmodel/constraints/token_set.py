"""A number of tokens, each out of a set."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from dcmodel.constraint import CompiledConstraint, Constraint, MaskRow
from dcmodel.constraints.plain import PlainMatcher, no_end_token, row_of
from dcmodel.errors import InvalidConstraintError
from dcmodel.mask import TokenMask
from dctokenizers import Tokenizer

MAX_FORCED = 64


class TokenSet(Constraint):
    """From `min_count` to `max_count` tokens, each one of `token_ids`; without a maximum, any number.

    The end is allowed from `min_count` tokens on, and at `max_count` nothing else is. Ids are those of
    one vocabulary: `compile` raises `TokenRangeError` for one outside it, and
    `InvalidConstraintError` for an end-of-sequence token, which the counts rule over.
    """

    kind = "token_set"

    def __init__(self, token_ids: Iterable[int], *, min_count: int = 1, max_count: int | None = None) -> None:
        self.token_ids = frozenset(_checked(token_id) for token_id in token_ids)
        self.min_count = min_count
        self.max_count = max_count
        if not self.token_ids:
            raise InvalidConstraintError("the token set is empty.", remedy="Give at least one id.")
        for count in (min_count, max_count):
            if count is not None and type(count) is not int:
                raise InvalidConstraintError(f"a count is {count!r:.40}.", remedy="Give a whole number.")
        if min_count < 0 or (max_count is not None and max_count < max(min_count, 1)):
            raise InvalidConstraintError(
                f"no number of tokens is at least {min_count} and at most {max_count}.",
                remedy="Give 0 <= min_count <= max_count, and a max_count of at least 1.",
            )

    @property
    def is_about_tokens(self) -> bool:
        return True

    @property
    def key(self) -> Hashable:
        return (self.kind, self.token_ids, self.min_count, self.max_count)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        mask = TokenMask.from_ids(self.token_ids, tokenizer.vocab_size)
        ends = self.token_ids.intersection(tokenizer.eos_token_ids)
        if ends:
            raise InvalidConstraintError(
                f"token {min(ends)} ends the text and cannot be in a token set.",
                remedy="Leave it out; min_count says from where the end is allowed.",
            )
        return _CompiledTokenSet(self, mask, tokenizer)

    def to_dict(self) -> Mapping[str, Any]:
        return {
            "kind": self.kind,
            "token_ids": sorted(self.token_ids),
            "min_count": self.min_count,
            "max_count": self.max_count,
        }


def _checked(token_id: object) -> int:
    if not isinstance(token_id, int | np.integer) or isinstance(token_id, bool) or token_id < 0:
        raise InvalidConstraintError(
            f"{token_id!r:.40} is no token id.", remedy="Ids are whole numbers from 0."
        )
    return int(token_id)


class _CompiledTokenSet(CompiledConstraint):
    def __init__(self, rule: TokenSet, mask: TokenMask, tokenizer: Tokenizer) -> None:
        self.rule = rule
        self.tokenizer = tokenizer
        self.row = mask.bits
        self.end_row = row_of(tokenizer.eos_token_ids, tokenizer.vocab_size)
        self.open_row = self.row | self.end_row

    def matcher(self) -> TokenSetMatcher:
        return TokenSetMatcher(self)


class TokenSetMatcher(PlainMatcher):
    """One sequence under a `TokenSet`."""

    __slots__ = ("_compiled",)

    def __init__(self, compiled: _CompiledTokenSet) -> None:
        super().__init__(compiled.tokenizer)
        self._compiled = compiled

    def _allows(self, token_id: int) -> bool:
        return token_id in self._compiled.rule.token_ids and not self._is_full

    def _fill(self, row: MaskRow) -> None:
        if self._is_full and not self._tokenizer.eos_token_ids:
            raise no_end_token()
        if self._is_full:
            row[:] = self._compiled.end_row
        else:
            row[:] = self._compiled.open_row if self.is_accepting else self._compiled.row

    def forced(self) -> list[int]:
        rule = self._compiled.rule
        if len(rule.token_ids) > 1 or self._ends:
            return []
        return list(rule.token_ids) * min(rule.min_count - len(self._token_ids), MAX_FORCED)

    @property
    def is_accepting(self) -> bool:
        return len(self._token_ids) >= self._compiled.rule.min_count

    @property
    def is_finished(self) -> bool:
        return self._ends > 0 or self._is_full

    @property
    def _is_full(self) -> bool:
        return len(self._token_ids) == self._compiled.rule.max_count

    def fork(self) -> TokenSetMatcher:
        twin = TokenSetMatcher(self._compiled)
        twin._token_ids, twin._ends = self._token_ids.copy(), self._ends
        return twin
