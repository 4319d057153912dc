"""Server-sent events, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmql_backends.openai.transport.sse import MAX_EVENT_BYTES, EventTooLongError, ServerEvent, SseParser

STREAM = (
    b"\xef\xbb\xbf: ping\n\ndata: one\n\r\nevent: error\rdata:two\r\r"
    b"data: \xc3\xa9\xf0\x9f\x98\x80\r\ndata:  4\n"
    b"id: 7\nretry: 5\nnonsense\n\ndata\n\nevent: nothing\n\ndata: [DONE]\n\n"
)
EVENTS = [
    ServerEvent("one"),
    ServerEvent("two", "error"),
    ServerEvent("é😀\n 4"),
    ServerEvent(""),
    ServerEvent("[DONE]"),
]


def parse(pieces: list[bytes]) -> list[ServerEvent]:
    parser = SseParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.finish()


def test_the_stream_as_a_whole():
    assert parse([STREAM]) == EVENTS


def test_every_single_cut():
    for place in range(len(STREAM) + 1):
        assert parse([STREAM[:place], STREAM[place:]]) == EVENTS, place


def test_byte_by_byte():
    assert parse([bytes([byte]) for byte in STREAM]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_any_cuts(places):
    bounds = [0, *sorted(places), len(STREAM)]
    assert parse([STREAM[a:b] for a, b in pairwise(bounds)]) == EVENTS


TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))


@given(
    st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=5),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.integers(1, 7),
)
def test_what_a_server_writes_is_what_is_read(events, end, size):
    written = b"".join(
        b"".join(b"data: " + line.encode() + end for line in lines) + b":" + end + end for lines in events
    )
    pieces = [written[start : start + size] for start in range(0, len(written), size)]
    assert parse(pieces) == [ServerEvent("\n".join(lines)) for lines in events]


def test_an_event_whose_empty_line_is_missing_counts_and_a_torn_line_does_not():
    assert parse([b"data: one\n"]) == [ServerEvent("one")]
    assert parse([b"data: one"]) == []
    assert parse([b"data: one\n\ndata: tw"]) == [ServerEvent("one")]


def test_an_event_without_an_end_is_refused():
    parser = SseParser()
    for _ in range(16):
        parser.feed(b"x" * (MAX_EVENT_BYTES // 16))
    with pytest.raises(EventTooLongError):
        parser.feed(b"x")


def test_a_long_stream_of_short_events_is_no_long_event():
    parser = SseParser()
    for _ in range(40):
        assert parser.feed(b"data: " + b"x" * (MAX_EVENT_BYTES // 16) + b"\n\n")
