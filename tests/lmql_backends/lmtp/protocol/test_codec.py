"""Frames: everything arrives as it was, and nothing that arrives can do harm."""

from __future__ import annotations

import json
import time

import msgspec
import pytest
from fakes.wire_values import messages_of
from hypothesis import given
from hypothesis import strategies as st

from dcmodel.errors import InvalidRequestError
from dcmodel.types import SamplingParams
from lmql_backends.lmtp.protocol.codec import CODECS, FEW_MESSAGES, JSON, MAX_BAD, MSGPACK, SALVAGED_BYTES
from lmql_backends.lmtp.protocol.messages import (
    BadFrame,
    Cancel,
    ClientMessage,
    Done,
    Hello,
    Open,
    Request,
    ServerMessage,
    Step,
)

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=repr)
DEEP = "[" * 100_000 + "]" * 100_000


@BOTH
@given(messages=st.lists(messages_of(ClientMessage), max_size=3))
def test_what_a_client_sends_arrives(codec, messages):
    assert codec.decode_client(codec.encode(messages)) == (messages, [])


@BOTH
@given(messages=st.lists(messages_of(ServerMessage), max_size=3))
def test_what_a_server_sends_arrives(codec, messages):
    assert codec.decode_server(codec.encode(messages)) == (messages, [])


@BOTH
@given(data=st.binary(max_size=60), start=st.sampled_from([b"", b"[", b"\x91", b"\xdd\xff\xff\xff\xff"]))
def test_random_bytes_are_bad_frames(codec, data, start):
    for decode in (codec.decode_client, codec.decode_server):
        found = decode(start + data)
        assert all(isinstance(item, BadFrame) for item in found.bad)


@BOTH
@given(
    messages=st.lists(messages_of(ClientMessage), min_size=1, max_size=3),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 10_000),
)
def test_damaged_frames_raise_nothing(codec, messages, changes, cut):
    frame = codec.encode(messages)
    data = bytearray(frame.encode() if isinstance(frame, str) else frame)
    for place, value in changes:
        data[place % len(data)] = value
    codec.decode_client(bytes(data[:cut]))
    codec.decode_server(bytes(data[:cut]))


@BOTH
def test_a_bad_message_takes_no_other_with_it(codec):
    good = [{"type": "cancel", "id": 1}, {"type": "cancel", "id": 2}]
    bad = [
        {"type": "cancel"},
        {"type": "nonsense", "id": 7},
        {"type": "cancel", "id": "8"},
        {"type": "step", "id": 9, "sampling": {"temperature": -1.0}},
        {"type": "cancel", "id": -1},
        {"type": "cancel", "id": 1 << 53},
        {"type": "cancel", "id": True},
        {"type": "generate", "id": 12, "request": {"prompt": [1 << 31]}},
        {"type": "generate", "id": 13, "request": {"prompt": [1.5]}},
        5,
        None,
        [],
    ]
    raw = (json if codec is JSON else msgspec.msgpack).__dict__
    dumps = raw["dumps"] if codec is JSON else raw["encode"]
    found = codec.decode_client(dumps([good[0], *bad, good[1]]))
    assert found.messages == [Cancel(id=1), Cancel(id=2)]
    numbers = [item.id for item in found.bad]
    assert numbers == [None, 7, None, 9, None, None, None, 12, 13, None, None, None]
    assert "temperature is -1.0" in found.bad[3].message
    assert found.bad[1].message == "message 2 cannot be read: Invalid value 'nonsense' - at `$.type`."


@BOTH
def test_fields_that_are_not_known_are_ignored(codec):
    encode = json.dumps if codec is JSON else msgspec.msgpack.encode
    found = codec.decode_client(encode([{"type": "cancel", "id": 1, "because": {"of": [1]}}]))
    assert found == ([Cancel(id=1)], [])


@pytest.mark.parametrize(
    "frame",
    [
        *(
            "",
            " ",
            "{}",
            "1",
            "null",
            '"x"',
            "[",
            "[1",
            '[{"type":"cancel","id":1}',
            "HELLO",
            "\ud800",
            b"\xff",
        ),
        *('[{"type":"cancel","id":1}] x', f"[{DEEP}]", f'[{{"type":"cancel","id":1,"x":{DEEP}}}]'),
    ],
    ids=lambda frame: repr(frame[:30]),
)
def test_json_that_is_no_list_of_messages_is_a_bad_frame(frame):
    found = JSON.decode_client(frame)
    assert found.messages == []
    assert found.bad
    assert len(found.bad[0].message) < 400


@pytest.mark.parametrize(
    "text",
    [
        '[{"type":"step","id":1,"sampling":{"temperature":NaN}}]',
        '[{"type":"step","id":1,"sampling":{"temperature":1e400}}]',
        '[{"type":"step","id":1,"sampling":{"seed":1.5}}]',
        '[{"type":"step","id":1,"sampling":{"logit_bias":{"x":1}}}]',
        '[{"type":"step","id":100000000000000000000000000000}]',
        '[{"type":"step","id":1,"mask":{"form":"bits","data":"***"}}]',
        '[{"type":"open","id":1,"request":{"prompt":[1],"constraint":{"a":"\\ud800"}}}]',
    ],
)
def test_values_that_cannot_be_are_refused(text):
    found = JSON.decode_client(text)
    assert found.messages == []
    assert len(found.bad) == 1


def test_of_a_key_that_comes_twice_the_last_counts():
    assert JSON.decode_client('[{"type":"cancel","id":1,"id":2}]').messages == [Cancel(id=2)]


def test_extensions_of_messagepack_are_no_values():
    frame = msgspec.msgpack.encode([{"type": "cancel", "id": msgspec.msgpack.Ext(1, b"x")}])
    assert MSGPACK.decode_client(frame).messages == []


def test_a_text_frame_is_no_messagepack():
    found = MSGPACK.decode_client("[]")
    assert found.messages == []
    assert "binary" in found.bad[0].message


@BOTH
def test_an_empty_list_is_a_frame_without_messages(codec):
    assert codec.decode_client(codec.encode([])) == ([], [])


def test_a_frame_full_of_nonsense_is_not_read_to_its_end():
    found = JSON.decode_client(json.dumps([{"type": "x", "id": n} for n in range(500)]))
    assert len(found.bad) == MAX_BAD + 1
    assert found.bad[-1].message == f"messages behind message {MAX_BAD - 1} were not read."
    begin = time.process_time()
    JSON.decode_client(f"[{'0,' * (SALVAGED_BYTES // 2 - 2)}0]")
    assert time.process_time() - begin < 1.0


def test_of_a_large_frame_with_many_messages_none_is_salvaged():
    items = ['{"type":"cancel","id":1}'] * (SALVAGED_BYTES // 20)
    found = JSON.decode_client(f"[{','.join(items)},5]")
    assert found.messages == []
    assert len(found.bad) == 1


def test_of_a_large_frame_with_few_messages_the_good_ones_are_kept():
    big = Open(id=1, request=Request(prompt=[1000] * (SALVAGED_BYTES // 4)))
    frame = JSON.encode([big, Cancel(id=2)])[:-1] + ',{"type":"x","id":3}]'
    found = JSON.decode_client(frame)
    assert [item.id for item in found.messages] == [1, 2]
    assert [item.id for item in found.bad] == [3]
    assert len(found.messages) < FEW_MESSAGES


@BOTH
def test_a_text_without_a_utf8_form_cannot_be_sent(codec):
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        codec.encode([Open(id=1, request=Request(prompt="\ud800"))])


def test_messagepack_has_no_whole_numbers_beyond_64_bits():
    with pytest.raises(InvalidRequestError, match="cannot be encoded"):
        MSGPACK.encode([Step(id=1, sampling=SamplingParams(seed=1 << 64))])


def test_defaults_are_left_out():
    assert JSON.encode([Hello(versions=[2])]) == '[{"type":"hello","versions":[2]}]'
    request = Request(prompt=[1, 2])
    assert JSON.encode([Open(id=3, request=request)]) == '[{"type":"open","id":3,"request":{"prompt":[1,2]}}]'


def test_codecs_are_found_by_their_subprotocol():
    assert list(CODECS) == ["lmtp.v2.msgpack", "lmtp.v2.json"]
    assert CODECS["lmtp.v2.json"] is JSON


def test_an_answer_is_no_question():
    frame = '[{"type":"goaway","reason":"x"}]'
    assert JSON.decode_client(frame).messages == []
    assert len(JSON.decode_server(frame).messages) == 1
    assert Done.__struct_config__.tag == "done"
