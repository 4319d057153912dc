"""Streaming gives the whole text, and never half a character."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dctokenizers import StreamDecoder, Vocabulary

BYTES = Vocabulary([*(bytes([byte]) for byte in range(256)), b"<eos>", b"", "🐢".encode()], [256])


def pieces_of(decoder, token_ids, cuts):
    pieces, start = [], 0
    for cut in [*sorted(cuts), len(token_ids)]:
        pieces.append(decoder.push(token_ids[start:cut]))
        start = cut
    return [*pieces, decoder.finish()]


@settings(max_examples=200, deadline=None)
@given(raw=st.one_of(st.binary(max_size=30), st.text(max_size=15).map(str.encode)), data=st.data())
def test_pieces_of_any_split_join_to_the_whole(raw, data):
    token_ids = list(raw)
    cuts = data.draw(st.lists(st.integers(0, len(token_ids)), max_size=6))
    pieces = pieces_of(StreamDecoder(BYTES), token_ids, cuts)
    assert "".join(pieces) == raw.decode("utf-8", errors="replace")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=20))
def test_token_by_token_only_whole_characters_of_the_text_come(small, text):
    decoder = small.stream_decoder()
    pieces = [decoder.push([token_id]) for token_id in small.encode(text)]
    assert decoder.finish() == ""
    assert "".join(pieces) == text


def test_a_character_comes_with_its_last_byte():
    decoder = StreamDecoder(BYTES)
    first, *rest = "🐢".encode()
    assert decoder.push([first]) == ""
    assert decoder.push(rest[:-1]) == ""
    assert decoder.push(rest[-1:]) == "🐢"
    assert decoder.finish() == ""


def test_an_unfinished_character_is_replaced_at_the_end():
    decoder = StreamDecoder(BYTES)
    assert decoder.push(list("a🐢".encode()[:-1])) == "a"
    assert decoder.finish() == "\ufffd"


@pytest.mark.parametrize(("skip", "expected"), [(True, "ab"), (False, "a<eos>b")])
def test_special_tokens_are_skipped_unless_wanted(skip, expected):
    decoder = StreamDecoder(BYTES, skip_special=skip)
    assert decoder.push([97, 256, 257, 98]) + decoder.finish() == expected
