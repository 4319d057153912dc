"""A part of a mask leaves no allowed text out of reach."""

from __future__ import annotations

import pytest
from fakes.small_tokenizer import small_tokenizer

from dcmodel.constraints import Regex
from dcmodel.mask import allocate_rows, row_to_ids
from lmql_backends.openai.planner.shortest import ShortestTokens

TOKENIZER = small_tokenizer()
SHORTEST = ShortestTokens(TOKENIZER)


def mask_of(pattern: str):
    row = allocate_rows(1, TOKENIZER.vocab_size)[0]
    Regex(pattern).compile(TOKENIZER).matcher().fill_mask(row)
    return row


def ids_of(row) -> set[int]:
    return set(row_to_ids(row, TOKENIZER.vocab_size).tolist())


def first_bytes(ids) -> set[int]:
    texts = TOKENIZER.all_token_bytes()
    return {texts[item][0] for item in ids if texts[item] and item not in TOKENIZER.special_token_ids}


@pytest.mark.parametrize("pattern", ["[a-z ]*", "(?s:.)*", "(yes|no|maybe)"])
@pytest.mark.parametrize("count", [30, 60, 270, 300])
def test_each_byte_with_which_a_text_goes_on_has_a_token(pattern, count) -> None:
    row = mask_of(pattern)
    needed = len(first_bytes(ids_of(row))) + len(ids_of(row) & TOKENIZER.special_token_ids)
    part = SHORTEST.part(row, count)
    assert (part is None) == (needed > count)
    if part is not None:
        assert ids_of(part) <= ids_of(row)
        assert len(ids_of(part)) == min(count, len(ids_of(row)))
        assert first_bytes(ids_of(part)) == first_bytes(ids_of(row))
        assert ids_of(row) & TOKENIZER.special_token_ids <= ids_of(part)


def test_what_was_seen_comes_before_what_is_short() -> None:
    row = mask_of("[a-z ]*")
    long = sorted(ids_of(row), key=lambda item: -len(TOKENIZER.decode([item])))[:5]
    part = SHORTEST.part(row, 40, first=frozenset([*long, 0]))
    assert part is not None
    assert set(long) <= ids_of(part) <= ids_of(row)
    plain = SHORTEST.part(row, 40)
    assert plain is not None
    assert not set(long) & ids_of(plain)
