"""Masks on the wire: the shortest of packed bits, allowed ids and banned ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dcmodel.constraints.mask_answers import Answer
from dcmodel.errors import InvalidRequestError
from dcmodel.local.session import checked_mask
from dcmodel.mask import TokenMask, check_token_ids, mask_words, row_from_ids
from lmql_backends.lmtp.protocol.messages import Mask

FORMS = ("bits", "allow", "ban")
WORD = 4
"""Bytes of an id, and of a word of bits."""


def to_wire(mask: TokenMask) -> Mask:
    """The form of the fewest bytes."""
    allowed = len(mask)
    banned = mask.vocab_size - allowed
    words = mask_words(mask.vocab_size)
    if words <= allowed and words <= banned:
        return Mask(form="bits", data=mask.bits.astype("<i4", copy=False).tobytes())
    form, ids = ("allow", mask.to_ids()) if allowed <= banned else ("ban", (~mask).to_ids())
    return Mask(form=form, data=np.array(ids, dtype="<u4").tobytes())


def answer_to_wire(answer: Answer, vocab_size: int) -> Mask | None:
    """Whatever a caller may give as a mask. Raises what `Session.step` raises for it."""
    mask = checked_mask(answer, vocab_size)
    return None if mask is None else to_wire(mask)


def from_wire(mask: Mask, vocab_size: int) -> TokenMask:
    """The mask over a vocabulary of `vocab_size` ids.

    Raises `InvalidRequestError` for an unknown form, a wrong length and a mask that allows nothing,
    `TokenRangeError` for ids outside the vocabulary. Bits of the last word that are
    behind the vocabulary say nothing.
    """
    if mask.form not in FORMS:
        raise InvalidRequestError(
            f"a mask has the form {mask.form!r:.40}.", remedy=f"Forms: {', '.join(FORMS)}."
        )
    if len(mask.data) % WORD:
        raise InvalidRequestError(f"a mask has {len(mask.data)} bytes, no multiple of {WORD}.")
    bits = _bits(mask.data, vocab_size) if mask.form == "bits" else _from_ids(mask, vocab_size)
    found = TokenMask(bits, vocab_size)
    if not found.bits.any():
        raise InvalidRequestError("the mask allows no token.", remedy="Allow at least one.")
    return found


def _bits(data: bytes, vocab_size: int) -> NDArray[np.int32]:
    words = mask_words(vocab_size)
    if len(data) != words * WORD:
        raise InvalidRequestError(
            f"a mask has {len(data)} bytes of bits; {vocab_size} tokens need {words * WORD}.",
            remedy="Pack the bits into 32-bit words, lowest bit first.",
        )
    return np.frombuffer(data, dtype="<i4").astype(np.int32)


def _from_ids(mask: Mask, vocab_size: int) -> NDArray[np.int32]:
    """Ids may come in any order, and several times."""
    ids = np.frombuffer(mask.data, dtype="<u4").astype(np.int64)
    check_token_ids(ids, vocab_size, what="a mask's token id")
    bits = np.zeros(mask_words(vocab_size), dtype=np.int32)
    row_from_ids(ids, vocab_size, bits)
    return ~bits if mask.form == "ban" else bits
