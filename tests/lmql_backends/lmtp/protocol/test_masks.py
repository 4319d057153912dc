"""Masks arrive as they were, in few bytes, and what is no mask of this vocabulary is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmodel.errors import InvalidRequestError, TokenRangeError
from dcmodel.mask import TokenMask, mask_words
from lmql_backends.lmtp.protocol import masks
from lmql_backends.lmtp.protocol.messages import Mask


@given(vocab_size=st.integers(1, 200), data=st.data())
def test_a_mask_arrives_as_it_was_in_the_fewest_bytes(vocab_size, data):
    ids = data.draw(st.sets(st.integers(0, vocab_size - 1), min_size=1))
    mask = TokenMask.from_ids(ids, vocab_size)
    sent = masks.to_wire(mask)
    assert masks.from_wire(sent, vocab_size) == mask
    assert len(sent.data) == 4 * min(mask_words(vocab_size), len(mask), vocab_size - len(mask))


@pytest.mark.parametrize(
    ("mask", "form", "data"),
    [
        (TokenMask.from_ids([3, 700], 1000), "allow", b"\x03\0\0\0\xbc\x02\0\0"),
        (~TokenMask.from_ids([256], 1000), "ban", b"\0\x01\0\0"),
        (TokenMask.from_ids([0, 1, 33], 40), "bits", b"\x03\0\0\0\x02\0\0\0"),
        (TokenMask.all(1000), "ban", b""),
    ],
)
def test_the_bytes_are_those_of_the_specification(mask, form, data):
    assert masks.to_wire(mask) == Mask(form=form, data=data)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (Mask(form="allow", data=b"\x28\0\0\0"), TokenRangeError, "token id 40 is outside"),
        (Mask(form="ban", data=b"\xff\xff\xff\xff"), TokenRangeError, "4294967295"),
        (Mask(form="allow", data=b""), InvalidRequestError, "allows no token"),
        (Mask(form="bits", data=bytes(8)), InvalidRequestError, "allows no token"),
        (Mask(form="bits", data=b"\0\0\0\0\0\xff\0\0"), InvalidRequestError, "allows no token"),
        (Mask(form="ban", data=np.arange(40, dtype="<u4").tobytes()), InvalidRequestError, "no token"),
        (Mask(form="bits", data=bytes(4)), InvalidRequestError, "4 bytes of bits; 40 tokens need 8"),
        (Mask(form="allow", data=b"\1\0\0"), InvalidRequestError, "3 bytes"),
        (Mask(form="bytes", data=b""), InvalidRequestError, "form 'bytes'"),
    ],
)
def test_what_is_no_mask_of_this_vocabulary_is_refused(mask, error, message):
    with pytest.raises(error, match=message):
        masks.from_wire(mask, 40)


def test_bits_behind_the_vocabulary_say_nothing():
    sent = Mask(form="bits", data=b"\1\0\0\0\0\xff\xff\xff")
    assert masks.from_wire(sent, 40) == TokenMask.from_ids([0], 40)


def test_ids_may_come_in_any_order_and_several_times():
    sent = Mask(form="allow", data=np.array([5, 1, 5], dtype="<u4").tobytes())
    assert masks.from_wire(sent, 40) == TokenMask.from_ids([1, 5], 40)


def test_whatever_a_caller_may_give_as_a_mask_is_sent():
    assert masks.answer_to_wire(None, 40) is None
    assert (
        masks.answer_to_wire([3], 40)
        == masks.answer_to_wire({3: 100.0}, 40)
        == Mask(form="allow", data=b"\3\0\0\0")
    )
    with pytest.raises(InvalidRequestError, match="allows no token"):
        masks.answer_to_wire([], 40)
