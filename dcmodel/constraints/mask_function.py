"""A caller's own function, asked at each step which tokens may come next."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from contextvars import ContextVar
from inspect import isawaitable, iscoroutine
from typing import Any

import numpy as np

from dcmodel.constraint import CompiledConstraint, Constraint, MaskRow
from dcmodel.constraints.mask_answers import Answer, WrongAnswerError, mask_of_answer
from dcmodel.constraints.plain import PlainMatcher
from dcmodel.errors import (
    CapabilityError,
    ConstraintRuntimeError,
    DcModelError,
    DeadEndError,
    InvalidConstraintError,
)
from dcmodel.loop import background_loop
from dcmodel.mask import TokenMask, row_allows, row_to_ids
from dctokenizers import Tokenizer

AllowedTokens = Callable[[tuple[int, ...]], Answer | Awaitable[Answer]]

caller_loop: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("caller_loop", default=None)
"""The event loop on which the caller's `async` functions run: that of who made the request.

A matcher takes it when it is made. Where it is not set, they run on dcmodel's own loop.
"""

LOOP_CHECK_SECONDS = 1.0
"""How often it is checked that the loop of an awaited answer still runs."""


class MaskFunction(Constraint):
    """`function` gets the ids generated so far and returns what may come next.

    It returns a `TokenMask`; ids; booleans, as many as there are ids (a numpy array or a list); packed
    bits (int32 or uint32 words as in `dcmodel.mask`, or their bytes; arrays of ids are int64); a
    logit-bias dict of +100 (only these) or -100 (never these); or None for everything. The end is
    allowed where its answer holds an end-of-sequence id; after the end it is not asked again.

    It may be ``async def``: then its coroutine runs on the event loop of who made the request, while the
    sequence waits, and the batch with it: so it must not ask the same model for anything. It should
    depend on its argument only: a matcher asks once for a state and again after a rollback, from
    whatever thread runs the sequence, and its errors are raised as `ConstraintRuntimeError`.
    """

    kind = "mask_function"

    def __init__(self, function: AllowedTokens) -> None:
        if not callable(function):
            raise InvalidConstraintError(f"{function!r:.80} is no function.", remedy="Give a callable.")
        self.function = function

    @property
    def is_about_tokens(self) -> bool:
        return True

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
        return MaskFunctionMatcher(self.function, self.tokenizer, caller_loop.get())


class MaskFunctionMatcher(PlainMatcher):
    """One sequence under a `MaskFunction`. Every method may call the function, and raise for it."""

    __slots__ = ("_answer", "_function", "_loop")

    def __init__(
        self, function: AllowedTokens, tokenizer: Tokenizer, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """`loop`: where coroutines of the function run; None: on dcmodel's own."""
        super().__init__(tokenizer)
        self._function = function
        self._loop = loop
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
            answer = self._function(prefix)
            if isawaitable(answer):
                answer = _awaited(answer, self._loop or background_loop().loop)
            return mask_of_answer(answer, self._vocab_size)
        except ConstraintRuntimeError as error:
            return error
        except (DcModelError, WrongAnswerError) as error:
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
        (token_id,) = row_to_ids(bits, self._vocab_size).tolist()
        return [] if token_id in self._tokenizer.eos_token_ids else [token_id]

    @property
    def is_accepting(self) -> bool:
        return self._ends > 0 or any(map(self._allows, self._tokenizer.eos_token_ids))

    @property
    def is_finished(self) -> bool:
        if self._ends or not self.is_accepting:
            return self._ends > 0
        return len(self._mask()) == sum(map(self._allows, self._tokenizer.eos_token_ids))

    @property
    def may_wait(self) -> bool:
        return True

    def fork(self) -> MaskFunctionMatcher:
        twin = MaskFunctionMatcher(self._function, self._tokenizer, self._loop)
        twin._token_ids, twin._ends, twin._answer = self._token_ids.copy(), self._ends, self._answer
        return twin


async def _result(answer: Awaitable[Answer]) -> Answer:
    return await answer


def _awaited(answer: Awaitable[Answer], loop: asyncio.AbstractEventLoop) -> Answer:
    """What an awaitable gives on `loop`. Waits, but never for a loop that cannot run.

    Raises what it raises, and `ConstraintRuntimeError` where waiting would not end.
    """
    coroutine = _result(answer)
    if loop is _loop_of_this_thread():
        _discard(answer, coroutine)
        raise ConstraintRuntimeError(
            "an async mask function was asked from the thread of the event loop that it should run on.",
            remedy="Use the matcher from another thread (`asyncio.to_thread`), or give a plain function.",
        )
    if loop.is_closed():
        _discard(answer, coroutine)
        raise _stopped_loop()
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    was_running = True
    while not concurrent.futures.wait([future], timeout=LOOP_CHECK_SECONDS).done:
        # Who runs a loop call by call lets it rest for moments.
        if not loop.is_running() and not was_running:
            raise _stopped_loop()
        was_running = loop.is_running()
    return future.result()


def _loop_of_this_thread() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _discard(answer: Awaitable[Answer], coroutine: Coroutine[Any, Any, Answer]) -> None:
    """Close what will never run, which would be warned of otherwise."""
    coroutine.close()
    if iscoroutine(answer):
        answer.close()


def _stopped_loop() -> ConstraintRuntimeError:
    return ConstraintRuntimeError(
        "the event loop that an async mask function runs on has stopped.",
        remedy="Keep the loop of who made the request running until its results are there.",
    )


def _failure(what: str, cause: Exception) -> ConstraintRuntimeError:
    error = ConstraintRuntimeError(f"the mask function {what.rstrip('.')}.", remedy="Only this request ends.")
    error.__cause__ = cause
    return error
