"""What a caller's function may answer, turned into a mask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from dcmodel.mask import TokenMask, mask_words

Answer = (
    TokenMask
    | Iterable[int]
    | Iterable[bool]
    | Mapping[int, float]
    | NDArray[np.bool_]
    | NDArray[np.integer]
    | bytes
    | None
)
EXPECTED = "expected a TokenMask, ids, booleans, packed bits, a logit-bias dict or None"


class WrongAnswerError(Exception):
    """What a function returned is no set of tokens."""


def mask_of_answer(answer: object, vocab_size: int) -> TokenMask:
    """The mask that an answer means; None allows everything.

    Raises `WrongAnswerError`, and what `TokenMask` raises for ids and biases that are out of range.
    """
    match answer:
        case None:
            return TokenMask.all(vocab_size)
        case TokenMask():
            if answer.vocab_size != vocab_size:
                raise WrongAnswerError(f"its vocabulary has {answer.vocab_size} tokens, not {vocab_size}.")
            return answer
        case Mapping():
            return _from_bias(answer, vocab_size)
        case bytes() | bytearray() | memoryview():
            return _from_bytes(bytes(answer), vocab_size)
        case np.ndarray():
            return _from_array(answer, vocab_size)
        case str():
            raise WrongAnswerError(f"it is {answer!r:.60}; {EXPECTED}.")
        case Iterable():
            return _from_items(list(answer), vocab_size)
        case _:
            raise WrongAnswerError(f"it is {answer!r:.60}; {EXPECTED}.")


def _from_bias(bias: Mapping[object, object], vocab_size: int) -> TokenMask:
    checked: dict[int, float] = {}
    for token_id, value in bias.items():
        if not isinstance(value, int | float | np.integer | np.floating) or abs(value) != 100:
            raise WrongAnswerError(
                f"it gives the token {token_id!r:.40} a bias of {value!r:.40}; in a mask +100 means these "
                "only, -100 never. Give other numbers as the request's `logit_bias`."
            )
        checked[_token_id(token_id, vocab_size)] = float(value)
    return TokenMask.from_logit_bias(checked, vocab_size)


def _from_bytes(packed: bytes, vocab_size: int) -> TokenMask:
    size = mask_words(vocab_size) * 4
    if len(packed) != size:
        raise WrongAnswerError(f"it is {len(packed)} bytes of packed bits, not {size}.")
    return TokenMask(np.frombuffer(packed, dtype="<i4").astype(np.int32), vocab_size)


def _from_array(array: NDArray[np.generic], vocab_size: int) -> TokenMask:
    if array.dtype == np.bool_:
        if array.shape != (vocab_size,):
            raise WrongAnswerError(f"its booleans have the shape {array.shape}, not ({vocab_size},).")
        return TokenMask.from_bools(array.astype(np.bool_))
    if array.dtype in (np.int32, np.uint32):
        # Ids of 32 bits would look the same.
        if array.shape != (mask_words(vocab_size),):
            raise WrongAnswerError(
                f"its packed bits have the shape {array.shape}, not ({mask_words(vocab_size)},): integers of "
                "32 bits are packed bits. Give ids as a list or as int64."
            )
        return TokenMask(np.ascontiguousarray(array).view(np.int32), vocab_size)
    if array.ndim != 1:
        raise WrongAnswerError(f"its array has the shape {array.shape}; ids have one dimension.")
    if np.issubdtype(array.dtype, np.integer):
        return TokenMask.from_ids(array.tolist(), vocab_size)
    return _from_items(list(array), vocab_size)


def _from_items(items: list[object], vocab_size: int) -> TokenMask:
    if items and all(isinstance(item, bool | np.bool_) for item in items):
        if len(items) != vocab_size:
            raise WrongAnswerError(f"it holds {len(items)} booleans, not {vocab_size}.")
        return TokenMask.from_bools(np.array(items, dtype=np.bool_))
    return TokenMask.from_ids([_token_id(item, vocab_size) for item in items], vocab_size)


def _token_id(item: object, vocab_size: int) -> int:
    if not isinstance(item, int | np.integer) or isinstance(item, bool):
        raise WrongAnswerError(f"it holds {item!r:.60}, which is no token id.")
    if not 0 <= item < vocab_size:
        raise WrongAnswerError(f"it holds the id {item}, outside the vocabulary of {vocab_size}.")
    return int(item)
