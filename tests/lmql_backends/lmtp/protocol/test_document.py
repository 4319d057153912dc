"""The specification's examples are what the code reads and writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from lmql_backends.lmtp.protocol import legacy
from lmql_backends.lmtp.protocol.codec import JSON, MSGPACK
from lmql_backends.lmtp.protocol.messages import ClientMessage, ServerMessage
from lmql_backends.lmtp.server.limits import ConnectionLimits

DOCUMENT = (Path(__file__).parents[4] / "docs" / "lmtp.md").read_text(encoding="utf-8")


def examples(kind: str) -> list[str]:
    """The lines of the blocks of a kind."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("frame", examples("json client"), ids=lambda frame: frame[:40])
def test_a_clients_frame_is_read_and_written_as_it_stands(frame):
    found = JSON.decode_client(frame)
    assert not found.bad
    assert JSON.encode(found.messages) == frame
    assert MSGPACK.decode_client(MSGPACK.encode(found.messages)).messages == found.messages


@pytest.mark.parametrize("frame", examples("json server"), ids=lambda frame: frame[:40])
def test_a_servers_frame_is_read_and_written_as_it_stands(frame):
    found = JSON.decode_server(frame)
    assert not found.bad
    assert JSON.encode(found.messages) == frame
    assert MSGPACK.decode_server(MSGPACK.encode(found.messages)).messages == found.messages


@pytest.mark.parametrize(("kind", "union"), [("client", ClientMessage), ("server", ServerMessage)])
def test_every_message_has_an_example(kind, union):
    shown = {message["type"] for frame in examples(f"json {kind}") for message in json.loads(frame)}
    assert shown == {message.__struct_config__.tag for message in get_args(union)}


@pytest.mark.parametrize("frame", examples("text client"), ids=lambda frame: frame[:20])
def test_frames_of_lmqls_client_are_read(frame):
    assert legacy.parse(frame).stream_id in (1, 2, 3)


def test_frames_for_lmqls_client_are_written_as_they_stand():
    token = legacy.TokenItem(220, 1, -0.25, None, {220: -0.25, 221: -1.5})
    scored = [legacy.ScoreItem(220, 2, -1.5, None), legacy.ScoreItem(22, 2, -0.5, "stop")]
    assert examples("text server") == [
        legacy.token_frame([token]),
        legacy.token_frame(scored),
        legacy.token_frame([legacy.ErrorItem(4, "the prompt does not fit.")]),
        legacy.msg_frame([legacy.InfoItem(3, {"name": "tiny"})]),
        legacy.msg_frame([legacy.ErrorItem(5, "there is no command 'HELLO'.")]),
    ]


def test_the_limits_are_those_of_the_server():
    limits = ConnectionLimits()
    numbers = (limits.max_streams, limits.max_queued, limits.max_stop_strings, limits.max_numbers)
    for number in (*numbers, limits.max_prefixes, limits.max_continuations, limits.max_stop_chars):
        assert f"{number:,}" in DOCUMENT
    assert limits.max_frame_bytes == 4 << 20
    assert "4 MiB" in DOCUMENT
