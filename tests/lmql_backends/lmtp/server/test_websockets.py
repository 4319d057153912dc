"""Websockets over real sockets: handshakes, malformed frames, slow readers, clients that go away."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import zlib
from contextlib import asynccontextmanager, suppress

import psutil
import pytest
from fakes.raw_client import DEADLINE, fake_model, frame, raw_client

from dcmodel.loop import run
from lmql_backends.lmtp.protocol.codec import MSGPACK
from lmql_backends.lmtp.protocol.messages import Hello
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.peers import LegacyPeer
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings
from lmql_backends.lmtp.server.websocket import OVERFLOW, SLOW_CONSUMER, Writer

MIB = 1 << 20
HELLO = {"type": "hello", "versions": [2]}
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.fixture(scope="module")
def model():
    made = fake_model()
    yield made
    run(made.aclose())


def generate(id_: int, max_tokens: int = 4, **fields) -> dict:
    return {
        "type": "generate",
        "id": id_,
        "request": {"prompt": [5, 6, 7], "max_tokens": max_tokens, **fields},
    }


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack(">H", code) + reason)


# -- the handshake ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/lmtp"])
@pytest.mark.parametrize("protocol", ["lmtp.v2.json", "lmtp.v2.msgpack", "other, lmtp.v2.json", None])
async def test_every_protocol_is_spoken_at_both_paths(model, path, protocol):
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        assert await client.upgrade(path, protocol) == 101
        if protocol is None:
            await client.send(frame(TEXT, b'GENERATE {"model": "fake", "prompt": [5], "stream_id": 1}'))
            opcode, data = await client.frame()
            assert (opcode, data[:5]) == (TEXT, b"TOKEN")
        elif "msgpack" in protocol:
            await client.send(frame(BINARY, MSGPACK.encode([Hello(versions=[2])])))
            opcode, data = await client.frame()
            assert opcode == BINARY
            assert MSGPACK.decode_server(data).messages[0].version == 2
        else:
            await client.tell(HELLO)
            assert (await client.messages())[0]["type"] == "welcome"


@pytest.mark.parametrize(
    ("path", "protocol", "headers", "status"),
    [
        ("/other", "lmtp.v2.json", {}, 404),
        ("/lmtp", "lmtp.v9.json", {}, 400),
        ("/lmtp", "lmtp.v2.json", {"Origin": "https://evil.example"}, 403),
        ("/lmtp", None, {"Origin": "null"}, 403),
        ("/", None, {"Origin": "http://127.0.0.1:1"}, 403),
    ],
)
async def test_what_is_refused_never_becomes_a_websocket(model, path, protocol, headers, status):
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        assert await client.upgrade(path, protocol, **headers) == status


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong-one", 401),
        ("Bearer long-enoug", 401),
        ("Bearer long-enough2", 401),
        ("Basic long-enough", 401),
        ("Bearer \xff\xfe", 401),
        ("Bearer long-enough", 101),
        ("bearer  long-enough", 101),
    ],
)
async def test_the_token_is_asked_for_before_the_upgrade(model, authorization, status):
    settings = ServerSettings(token="long-enough")
    headers = {"Authorization": authorization} if authorization is not None else {}
    async with LMTPServer(model, settings=settings) as server, raw_client(server.port) as client:
        assert await client.upgrade(**headers) == status


async def test_compression_is_not_negotiated(model):
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        assert await client.upgrade(Sec_WebSocket_Extensions="permessage-deflate") == 101
        bomb = zlib.compress(b"\0" * (8 * MIB))[2:-6]
        await client.send(frame(TEXT, bomb, rsv=4))
        assert await client.close_code() == 1002


@pytest.mark.parametrize(
    "lines",
    [
        ["Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="],
        ["Sec-WebSocket-Version: 13"],
        ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"],
        ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: !!!"],
    ],
)
async def test_a_bad_handshake_is_a_bad_request(model, lines):
    head = [
        "GET /lmtp HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        *lines,
        "",
        "",
    ]
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        await client.send("\r\n".join(head).encode())
        assert (await client.head())[0] in (400, 426)


# -- frames ----------------------------------------------------------------------------------------

MALFORMED = {
    **{f"rsv{rsv}": (frame(TEXT, b"[]", rsv=rsv), 1002) for rsv in range(1, 8)},
    **{f"opcode{code}": (frame(code, b""), 1002) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "unmasked text": (frame(TEXT, b"[]", masked=False), 1002),
    "unmasked close": (frame(CLOSE, b"", masked=False), 1002),
    "fragmented ping": (frame(PING, b"", fin=False), 1002),
    "fragmented pong": (frame(PONG, b"", fin=False), 1002),
    "fragmented close": (frame(CLOSE, b"", fin=False), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "long pong": (frame(PONG, b"x" * 126), 1002),
    "long close": (frame(CLOSE, struct.pack(">H", 1000) + b"x" * 124), 1002),
    "continuation of nothing": (frame(0, b"[]"), 1002),
    "text inside text": (frame(TEXT, b"[", fin=False) + frame(TEXT, b"]"), 1002),
    "binary inside text": (frame(TEXT, b"[", fin=False) + frame(BINARY, b"]"), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    **{
        f"close {code}": (close(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)
    },
    "close with bad UTF-8": (close(1000, b"\xff\xfe"), 1007),
    "bad UTF-8": (frame(TEXT, b"\xff\xfe\xfd"), 1007),
    "surrogate in UTF-8": (frame(TEXT, b'["\xed\xa0\x80"]'), 1007),
    "bad UTF-8 in pieces": (frame(TEXT, b"\xce", fin=False) + frame(0, b"\xff"), 1007),
    "overlong UTF-8": (frame(TEXT, b"\xc0\xaf"), 1007),
    "too long": (b"\x81\xff" + struct.pack(">Q", 5 * MIB) + b"\1\2\3\4", 1009),
    "absurdly long": (b"\x81\xff" + struct.pack(">Q", 2**62) + b"\1\2\3\4", 1009),
    "length with its highest bit": (b"\x81\xff" + struct.pack(">Q", 2**63) + b"\1\2\3\4", (1002, 1009)),
    "too long in pieces": (frame(TEXT, b"x" * 3 * MIB, fin=False) + frame(0, b"x" * 2 * MIB), 1009),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_frames_end_their_connection_as_the_rfc_says(model, name):
    data, code = MALFORMED[name]
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        assert await client.upgrade() == 101
        await client.send(data)
        assert await client.close_code() in (code if isinstance(code, tuple) else (code,))


@pytest.mark.parametrize(
    "pieces",
    [
        [frame(TEXT, json.dumps([HELLO]).encode())],
        [frame(TEXT, b"[", fin=False), frame(0, json.dumps(HELLO).encode(), fin=False), frame(0, b"]")],
        [frame(TEXT, b"[", fin=False), frame(PING, b"!"), frame(0, json.dumps(HELLO).encode() + b"]")],
        [frame(PONG, b"unasked"), frame(TEXT, json.dumps([HELLO]).encode())],
        [bytes([byte]) for byte in frame(TEXT, json.dumps([HELLO]).encode())],
        [frame(TEXT, b"", fin=False), frame(0, b"", fin=False), frame(0, json.dumps([HELLO]).encode())],
    ],
)
async def test_frames_may_come_in_pieces(model, pieces):
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        assert await client.upgrade() == 101
        for piece in pieces:
            await client.send(piece)
            await asyncio.sleep(0)
        while (got := await client.frame())[0] == PONG:
            assert got[1] == b"!"
        assert json.loads(got[1])[0]["type"] == "welcome"


@pytest.mark.parametrize("data", [b"", b"nonsense", b"{}", b"[1]", b'[{"type": "unknown"}]', b"[" * 100_000])
async def test_nonsense_in_a_good_frame_is_answered_and_the_connection_goes_on(model, data):
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        assert await client.upgrade() == 101
        await client.tell(HELLO)
        await client.messages()
        await client.send(frame(TEXT, data))
        assert (await client.messages())[0]["type"] == "badframe"
        await client.tell(generate(1))
        assert (await client.messages())[0]["type"] == "tokens"


async def test_forty_megabytes_in_one_frame_are_refused_before_they_are_kept(model):
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        assert await client.upgrade() == 101
        before = psutil.Process().memory_info().rss
        await client.send(b"\x81\xff" + struct.pack(">Q", 40 * MIB) + b"\1\2\3\4")
        assert await client.close_code() == 1009
        assert psutil.Process().memory_info().rss - before < 20 * MIB


async def test_the_largest_frame_is_the_servers_choice(model):
    settings = ServerSettings(limits=ConnectionLimits(max_frame_bytes=100))
    async with LMTPServer(model, settings=settings) as server, raw_client(server.port) as client:
        assert await client.upgrade() == 101
        await client.tell(HELLO)
        assert (await client.messages())[0]["max_frame_bytes"] == 100
        await client.send(frame(TEXT, b"x" * 101))
        assert await client.close_code() == 1009


# -- going away ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close frame", "close", "half close", "reset"])
async def test_a_client_that_goes_away_frees_its_places(how):
    model = fake_model(max_sequences=1)
    try:
        async with LMTPServer(model) as server:
            async with raw_client(server.port) as client:
                assert await client.upgrade() == 101
                await client.tell(HELLO, generate(1, 500, ignore_eos=True))
                await client.messages()
                await client.messages()
                if how == "close frame":
                    await client.send(close(1000))
                elif how == "half close":
                    client.writer.write_eof()
                elif how == "reset":
                    client.writer.transport.abort()
                else:
                    client.writer.close()
                async with raw_client(server.port) as other:  # there is one place, and it is free
                    assert await other.upgrade() == 101
                    await other.tell(HELLO, generate(1, 2))
                    kinds = []
                    while "done" not in kinds:
                        kinds += [message["type"] for message in await other.messages()]
            async with asyncio.timeout(DEADLINE):
                await server.app.drain.wait_idle()
    finally:
        await model.aclose()


async def test_a_client_that_vanishes_is_noticed_by_pings(model):
    settings = ServerSettings(ping_seconds=0.2)
    async with LMTPServer(model, settings=settings) as server, raw_client(server.port) as client:
        assert await client.upgrade() == 101
        opcode, _ = await client.frame()  # which is not answered
        assert opcode == PING
        assert await client.close_code() in (1011, None)
        async with asyncio.timeout(DEADLINE):
            await server._listener._connections.empty.wait()


async def test_a_client_that_answers_pings_stays(model):
    settings = ServerSettings(ping_seconds=0.1)
    async with LMTPServer(model, settings=settings) as server, raw_client(server.port) as client:
        assert await client.upgrade() == 101
        for _ in range(5):
            opcode, data = await client.frame()
            assert opcode == PING
            await client.send(frame(PONG, data))
        await client.tell(HELLO)
        while (got := await client.frame())[0] == PING:
            await client.send(frame(PONG, got[1]))
        assert got[0] == TEXT


# -- reading slowly --------------------------------------------------------------------------------

STREAMS, TOKENS = 8, 200
"""With 20 likeliest tokens each about a megabyte, which is more than the buffers below hold."""
BUFFER = 32 << 10


@asynccontextmanager
async def small_buffers(model, **options):
    """A server, and a client that reads nothing, between which the system keeps little."""
    settings = ServerSettings(max_queued_bytes=BUFFER, **options)
    async with LMTPServer(model, settings=settings) as server:
        for listening in server._listener._server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        async with raw_client(server.port, receive_buffer=BUFFER) as client:
            yield server, client


async def flood(client, protocol: str | None) -> None:
    """Ask for much, and read nothing."""
    assert await client.upgrade(protocol=protocol) == 101
    client.writer.transport.pause_reading()
    if protocol is None:
        for stream in range(STREAMS):
            body = {"model": "fake", "prompt": [5, stream], "max_tokens": TOKENS, "top_logprobs": 20}
            await client.send(frame(TEXT, b"GENERATE " + json.dumps({**body, "stream_id": stream}).encode()))
    else:
        asked = [generate(id_, TOKENS, ignore_eos=True, top_logprobs=20) for id_ in range(STREAMS)]
        await client.tell(HELLO, *asked)


@pytest.mark.parametrize("protocol", ["lmtp.v2.json", None])
async def test_a_client_that_reads_nothing_is_cut_off_and_costs_the_others_nothing(model, protocol):
    async with small_buffers(model, stall_seconds=0.5) as (server, client):
        async with raw_client(server.port) as neighbour:
            assert await neighbour.upgrade() == 101
            await neighbour.tell(HELLO)
            await neighbour.messages()
            await flood(client, protocol)
            await neighbour.tell(generate(7, 20, ignore_eos=True))
            kinds = []
            while "done" not in kinds:
                kinds += [message["type"] for message in await neighbour.messages()]
        async with asyncio.timeout(DEADLINE):
            await server.app.drain.wait_idle()


async def test_a_client_that_reads_late_gets_everything(model):
    async with small_buffers(model) as (_, client):
        await flood(client, "lmtp.v2.json")
        await asyncio.sleep(0.3)  # its streams pause meanwhile
        client.writer.transport.resume_reading()
        tokens = dict.fromkeys(range(STREAMS), 0)
        open_ = set(tokens)
        while open_:
            for message in await client.messages():
                if message["type"] == "tokens":
                    assert message["at"] == tokens[message["id"]]
                    tokens[message["id"]] += len(message["columns"]["token_ids"])
                elif message["type"] == "done":
                    open_.remove(message["id"])
        assert set(tokens.values()) == {TOKENS}


async def test_a_slow_consumer_is_told_why_when_it_reads_at_last(model):
    async with small_buffers(model, stall_seconds=0.3) as (server, client):
        await flood(client, "lmtp.v2.json")
        async with asyncio.timeout(DEADLINE):
            await server.app.drain.wait_idle()
        client.writer.transport.resume_reading()
        assert await client.close_code() == SLOW_CONSUMER


class SlowPeer(LegacyPeer):
    """Notes when it is paused."""

    def __init__(self, *, can_pause: bool) -> None:
        self.can_pause = can_pause
        self.is_paused = False

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False


class SlowClient:
    """Takes so many frames, and then one each time that it is asked to."""

    def __init__(self, frames: int) -> None:
        self.taken = []
        self._room = asyncio.Semaphore(frames)

    async def send(self, event) -> None:
        if event["type"] != "websocket.close":
            await self._room.acquire()
        self.taken.append(event)

    def take(self, frames: int) -> None:
        for _ in range(frames):
            self._room.release()


@asynccontextmanager
async def writing(client: SlowClient, peer: SlowPeer, **options):
    writer = Writer(client.send, ServerSettings(max_queued_bytes=100, **options), "client")
    writer.attach(peer)
    task = asyncio.create_task(writer.run())
    yield writer, task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_streams_pause_while_too_much_waits_and_go_on_when_half_of_it_has_left():
    client, peer = SlowClient(0), SlowPeer(can_pause=True)
    async with writing(client, peer) as (writer, _):
        for _ in range(10):
            writer.put("x" * 10)
        assert not peer.is_paused
        writer.put("x" * 10)
        assert peer.is_paused
        client.take(5)
        await turns()
        assert peer.is_paused
        client.take(1)
        await turns()
        assert not peer.is_paused
        client.take(5)
        await turns()
        assert len(client.taken) == 11


async def test_where_streams_cannot_pause_the_client_is_cut_off_at_a_bound():
    client, peer = SlowClient(0), SlowPeer(can_pause=False)
    async with writing(client, peer) as (writer, task):
        for _ in range(100 * OVERFLOW // 10):
            writer.put("x" * 10)
            await turns()
        assert client.taken == []
        for _ in range(3):  # more of it changes nothing
            writer.put("x" * 10)
        async with asyncio.timeout(DEADLINE):
            await task
        assert [event["code"] for event in client.taken] == [SLOW_CONSUMER]


async def test_one_large_frame_is_no_overflow():
    client, peer = SlowClient(1), SlowPeer(can_pause=True)
    async with writing(client, peer) as (writer, task):
        writer.put("x" * 100_000)
        await turns()
        assert len(client.taken) == 1
        assert not peer.is_paused
        assert not task.done()


async def test_many_connections_leave_nothing_behind(model):
    async with LMTPServer(model) as server:
        before = len(asyncio.all_tasks())
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(_one_connection(server.port))
        async with asyncio.timeout(DEADLINE):
            await server.app.drain.wait_idle()
            await server._listener._connections.empty.wait()
        assert server.app.websockets.connections == 0
        assert len(asyncio.all_tasks()) == before


async def _one_connection(port: int) -> None:
    async with raw_client(port) as client:
        assert await client.upgrade() == 101
        await client.tell(HELLO, generate(1, 3))
        with suppress(asyncio.IncompleteReadError):
            await client.messages()
            await client.messages()
