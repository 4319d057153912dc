"""The end of a server: nothing new, what runs goes on, and a deadline."""

from __future__ import annotations

import asyncio
import json

import pytest
from fakes.lmtp_peer import HeldEngine, fake_models
from fakes.raw_client import DEADLINE, fake_model, frame, raw_client

from dcmodel.loop import run
from lmql_backends.lmtp.server.contracts import HttpResponse
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.websocket import GOING_AWAY

HELLO = {"type": "hello", "versions": [2]}


@pytest.fixture(scope="module")
def model():
    made = fake_model()
    yield made
    run(made.aclose())


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def ask(port: int, path: str) -> tuple[int, dict]:
    async with raw_client(port) as client:
        await client.send(get(path))
        status, headers, body = await client.answer()
        return status, {**json.loads(body), **headers}


class Held:
    """A route whose answer waits for a word."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()

    async def __call__(self, request) -> HttpResponse:
        self.entered.set()
        await self.leave.wait()
        return HttpResponse(body=b'{"done": true}')


async def test_ready_says_so_at_once_and_what_runs_ends(model):
    held = Held()
    async with LMTPServer(model, routes={("GET", "/held"): held}) as server:
        assert (await ask(server.port, "/ready"))[0] == 200
        running = asyncio.create_task(ask(server.port, "/held"))
        await held.entered.wait()
        draining = asyncio.create_task(server.drain(DEADLINE))
        await server.app.drain.begun.wait()
        status, said = await ask(server.port, "/ready")
        assert (status, said["status"], said["running"]) == (503, "draining", 1)
        assert (await ask(server.port, "/health"))[0] == 200
        status, said = await ask(server.port, "/held")
        assert (status, said["error"]["code"], said["retry-after"]) == (503, "overloaded", "1")
        held.leave.set()
        assert await draining
        assert (await running)[1]["done"]


async def test_what_takes_too_long_is_cut_off(model):
    held = Held()
    async with LMTPServer(model, routes={("GET", "/held"): held}) as server:
        running = asyncio.create_task(ask(server.port, "/held"))
        await held.entered.wait()
        assert not await server.drain(0.05)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await running


async def test_idle_websockets_are_told_and_closed(model):
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        assert await client.upgrade() == 101
        await client.tell(HELLO)
        await client.messages()
        assert await server.drain(DEADLINE)
        assert [message["type"] for message in await client.messages()] == ["goaway"]
        assert await client.close_code() == GOING_AWAY


@pytest.mark.parametrize("protocol", ["lmtp.v2.json", None])
async def test_streams_come_to_their_end_and_new_ones_are_refused(protocol):
    served = fake_models(engine=HeldEngine, hold_at=0)  # stands still in its first step
    engine = served.engine
    try:
        async with LMTPServer(served) as server, raw_client(server.port) as client:
            assert await client.upgrade(protocol=protocol) == 101
            await client.send(asking(protocol, 1))
            async with asyncio.timeout(DEADLINE):
                await asyncio.to_thread(engine.is_held.wait, DEADLINE)
            draining = asyncio.create_task(server.drain(DEADLINE))
            await server.app.drain.begun.wait()
            await client.send(asking(protocol, 2))
            said = ""
            while "takes nothing new" not in said:
                said += (await client.frame())[1].decode()
            assert not draining.done()
            engine.may_go.set()
            while '"finish_reason":"length"' not in said:
                said += (await client.frame())[1].decode()
            assert await client.close_code() == GOING_AWAY
            assert await draining
    finally:
        engine.may_go.set()
        await served.fake.aclose()


def asking(protocol: str | None, id_: int) -> bytes:
    """For three tokens."""
    body: dict = {"prompt": [5, 6], "max_tokens": 3}
    if protocol is None:
        return frame(1, b"GENERATE " + json.dumps({**body, "model": "fake", "stream_id": id_}).encode())
    request = {**body, "ignore_eos": True}
    return frame(1, json.dumps([HELLO, {"type": "generate", "id": id_, "request": request}]).encode())


async def test_a_connection_that_comes_late_is_sent_away(model):
    held = Held()
    async with LMTPServer(model, routes={("GET", "/held"): held}) as server:
        running = asyncio.create_task(ask(server.port, "/held"))
        await held.entered.wait()
        draining = asyncio.create_task(server.drain(DEADLINE))
        await server.app.drain.begun.wait()
        async with raw_client(server.port) as client:
            assert await client.upgrade() == 101
            assert (await client.messages())[0]["type"] == "goaway"
            assert await client.close_code() == GOING_AWAY
        held.leave.set()
        assert await draining
        await running
