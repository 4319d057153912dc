"""A caller's own function, asked at each step which tokens may come next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraint import CompiledConstraint, Constraint, MaskRow
from dcmodel.constraints.plain import PlainMatcher
from dcmodel.errors import (
    CapabilityError,
    ConstraintRuntimeError,
    DcModelError,
    DeadEndError,
    InvalidConstraintError,
)
from dcmodel.mask import TokenMask, row_allows, row_to_ids
from dctokenizers import Tokenizer

Allowed = TokenMask | Iterable[int] | NDArray[np.bool_] | None
AllowedTokens = Callable[[tuple[int, ...]], Allowed]


class MaskFunction(Constraint):
    """`function` gets the ids generated so far and returns what may come next.

    It returns a `TokenMask`, ids, a boolean array of ``[vocab_size]``, or None for everything. The end
    is allowed where its answer holds an end-of-sequence id; after the end it is not asked again. It
    should depend on its argument only: a matcher asks once for a state and again after a rollback,
    from whatever thread runs the sequence, and its errors are raised as `ConstraintRuntimeError`.
    """

    kind = "mask_function"

    def __init__(self, function: AllowedTokens) -> None:
        if not callable(function):
            raise InvalidConstraintError(f"{function!r:.80} is no function.", remedy="Give a callable.")
        self.function = function

    @property
    def key(self) -> Hashable:
        try:
            hash(self.function)
        except TypeError:
            return (self.kind, id(self.function))
        return (self.kind, self.function)

    def compile(self, tokenizer: Tokenizer) -> CompiledConstraint:
        return _CompiledMaskFunction(self.function, tokenizer)

    def to_dict(self) -> Mapping[str, Any]:
        raise CapabilityError(
            "a mask function cannot be sent to another process.",
            remedy="Run the model in this process, or send the mask of each step in a session.",
        )


class _CompiledMaskFunction(CompiledConstraint):
    def __init__(self, function: AllowedTokens, tokenizer: Tokenizer) -> None:
        self.function = function
        self.tokenizer = tokenizer

    def matcher(self) -> MaskFunctionMatcher:
        return MaskFunctionMatcher(self.function, self.tokenizer)


class MaskFunctionMatcher(PlainMatcher):
    """One sequence under a `MaskFunction`. Every method may call the function, and raise for it."""

    __slots__ = ("_answer", "_function")

    def __init__(self, function: AllowedTokens, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._function = function
        self._answer: TokenMask | ConstraintRuntimeError | None = None

    def _mask(self) -> TokenMask:
        """The function's answer for this state; asked for once."""
        if self._answer is None:
            self._answer = self._ask()
        if isinstance(self._answer, ConstraintRuntimeError):
            raise self._answer
        return self._answer

    def _ask(self) -> TokenMask | ConstraintRuntimeError:
        prefix = tuple(self._token_ids)
        try:
            return _as_mask(self._function(prefix), self._tokenizer.vocab_size)
        except (DcModelError, _WrongAnswerError) as error:
            return _failure(f"returned a wrong mask after {len(prefix)} tokens: {error}", error)
        except Exception as error:  # the caller's own code may raise anything
            return _failure(f"raised {error!r} after {len(prefix)} tokens", error)

    def _allows(self, token_id: int) -> bool:
        return row_allows(self._mask().bits, token_id)

    def _fill(self, row: MaskRow) -> None:
        row[:] = self._mask().bits
        if not row.any():
            raise DeadEndError(
                f"the mask function allows no token after {len(self._token_ids)} tokens.",
                remedy="Return at least one id, an end-of-sequence id where the text may end.",
            )

    def _pushed(self, token_id: int) -> None:
        self._answer = None

    def _popped(self, count: int) -> None:
        self._answer = None

    def forced(self) -> list[int]:
        if self._ends:
            return []
        bits = self._mask().bits
        words = np.flatnonzero(bits)
        if words.size != 1 or (int(bits[words[0]]) & 0xFFFFFFFF).bit_count() != 1:
            return []
        (token_id,) = row_to_ids(bits, self._tokenizer.vocab_size).tolist()
        return [] if token_id in self._tokenizer.eos_token_ids else [token_id]

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or any(map(self._allows, self._tokenizer.eos_token_ids))

    @property
    def is_finished(self) -> bool:
        if self._ends or not self.is_accepting:
            return self._ends > 0
        return len(self._mask()) == sum(map(self._allows, self._tokenizer.eos_token_ids))

    def fork(self) -> MaskFunctionMatcher:
        twin = MaskFunctionMatcher(self._function, self._tokenizer)
        twin._token_ids, twin._ends, twin._answer = self._token_ids.copy(), self._ends, self._answer
        return twin


class _WrongAnswerError(Exception):
    """What a function returned is no set of tokens."""


def _as_mask(answer: object, vocab_size: int) -> TokenMask:
    if answer is None:
        return TokenMask.all(vocab_size)
    if isinstance(answer, TokenMask):
        if answer.vocab_size != vocab_size:
            raise _WrongAnswerError(f"its vocabulary has {answer.vocab_size} tokens, not {vocab_size}.")
        return answer
    if isinstance(answer, np.ndarray) and answer.dtype == np.bool_:
        if answer.shape != (vocab_size,):
            raise _WrongAnswerError(f"its booleans have the shape {answer.shape}, not ({vocab_size},).")
        return TokenMask.from_bools(answer)
    if isinstance(answer, str | bytes | Mapping) or not isinstance(answer, Iterable):
        raise _WrongAnswerError(f"it is {answer!r:.60}; expected a TokenMask, ids, booleans or None.")
    ids = list(answer)
    for item in ids:
        if not isinstance(item, int | np.integer) or isinstance(item, bool):
            raise _WrongAnswerError(f"it holds {item!r:.60}, which is no token id.")
        if not 0 <= item < vocab_size:
            raise _WrongAnswerError(f"it holds the id {item}, outside the vocabulary of {vocab_size}.")
    return TokenMask.from_ids(ids, vocab_size)


def _failure(what: str, cause: Exception) -> ConstraintRuntimeError:
    error = ConstraintRuntimeError(f"the mask function {what.rstrip('.')}.", remedy="Only this request ends.")
    error.__cause__ = cause
    return error
