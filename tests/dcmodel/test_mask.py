from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcmodel.errors import InvalidRequestError, TokenRangeError
from dcmodel.mask import (
    TokenMask,
    allocate_rows,
    clear_tail,
    mask_words,
    row_allows,
    row_from_ids,
    row_to_bools,
    row_to_ids,
)

sizes = st.integers(1, 200)


@st.composite
def sets(draw, count=1):
    size = draw(sizes)
    ids = st.sets(st.integers(0, size - 1))
    return size, *(draw(ids) for _ in range(count))


@given(sets())
def test_ids_and_booleans_go_to_and_fro(case):
    size, ids = case
    mask = TokenMask.from_ids(ids, size)
    assert mask.to_ids() == sorted(ids)
    assert len(mask) == len(ids)
    assert [i for i in range(-5, size + 70) if i in mask] == sorted(ids)
    assert TokenMask.from_bools(mask.to_bools()) == mask
    assert hash(TokenMask.from_bools(mask.to_bools())) == hash(mask)
    assert mask.to_bools().shape == (size,)


@given(sets(2))
def test_operators_are_those_of_sets(case):
    size, one, other = case
    a, b = TokenMask.from_ids(one, size), TokenMask.from_ids(other, size)
    assert (a & b).to_ids() == sorted(one & other)
    assert (a | b).to_ids() == sorted(one | other)
    assert (~a).to_ids() == sorted(set(range(size)) - one)
    assert (a == b) == (one == other)
    assert ~~a == a
    assert len(a | ~a) == size


@given(sets())
def test_a_logit_bias_says_the_same(case):
    size, ids = case
    mask = TokenMask.from_ids(ids, size)
    bias = mask.to_logit_bias()
    assert len(bias) <= size / 2 or not ids
    if bias:
        assert TokenMask.from_logit_bias(bias, size) == mask


def test_a_logit_bias_of_other_values_is_no_mask():
    with pytest.raises(InvalidRequestError, match=r"not 5\.0"):
        TokenMask.from_logit_bias({1: 5.0}, 10)
    assert TokenMask.from_logit_bias({1: 100, 2: -100}, 10).to_ids() == [1]
    assert TokenMask.from_logit_bias({1: -100}, 4).to_ids() == [0, 2, 3]


@pytest.mark.parametrize("ids", [[10], [-1], [3, 10**9], [10**30]])
def test_an_id_outside_the_vocabulary_is_an_error(ids):
    with pytest.raises(TokenRangeError, match="outside the vocabulary of 10"):
        TokenMask.from_ids(ids, 10)


def test_a_mask_is_a_copy_and_read_only():
    bits = np.zeros(1, dtype=np.int32)
    mask = TokenMask(bits, 10)
    bits[0] = 5
    assert len(mask) == 0
    with pytest.raises(ValueError, match="read-only"):
        mask.bits[0] = 1


@pytest.mark.parametrize("bits", [np.zeros(2, np.int32), np.zeros(1, np.int64), np.zeros((1, 1), np.int32)])
def test_bits_of_a_wrong_shape_are_an_error(bits):
    with pytest.raises(InvalidRequestError, match=r"int32 words of shape \(1,\)"):
        TokenMask(bits, 10)


def test_masks_of_two_vocabularies_do_not_mix():
    with pytest.raises(InvalidRequestError, match="10 and 11"):
        TokenMask.all(10) & TokenMask.all(11)
    assert TokenMask.all(10) != TokenMask.all(11)
    assert TokenMask.all(10) != "text"


@given(sets())
def test_rows(case):
    size, ids = case
    row = np.full(mask_words(size) + 2, 0x1234567, dtype=np.int32)
    row_from_ids(ids, size, row)
    assert row_to_ids(row, size).tolist() == sorted(ids)
    assert row_to_bools(row, size).sum() == len(ids)
    assert all(row_allows(row, i) == (i in ids) for i in range(size))
    assert not row_to_bools(row, row.size * 32)[size:].any()


@given(sizes, st.integers(0, 3))
def test_a_clear_tail(size, extra):
    (row,) = allocate_rows(1, size + 32 * extra)
    clear_tail(row, size)
    assert row_to_ids(row, row.size * 32).tolist() == list(range(size))


def test_bits_past_the_vocabulary_do_not_count():
    mask = TokenMask(np.full(1, -1, dtype=np.int32), 10)
    assert len(mask) == 10
    assert mask == TokenMask.all(10)
    assert len(TokenMask.none(10)) == 0
