"""HTTP from hostile and careless clients, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress

import psutil
import pytest
from fakes.raw_client import DEADLINE, fake_model, raw_client

from dcmodel.errors import InvalidRequestError, OverloadedError
from dcmodel.loop import run
from lmql_backends.lmtp.server.contracts import HttpResponse
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings

MIB = 1 << 20


@pytest.fixture(scope="module")
def model():
    made = fake_model()
    yield made
    run(made.aclose())


def get(path: str, *headers: str, method: str = "GET", host: str = "127.0.0.1") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def answer(port: int, data: bytes) -> tuple[int, dict, bytes]:
    async with raw_client(port) as client:
        await client.send(data)
        return await client.answer()


async def echo(request) -> HttpResponse:
    return HttpResponse(body=str(len(request.body)).encode())


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (get("/nothing"), 404, "not_found"),
        (get("/v1/modelsx"), 404, "not_found"),
        (get("/health", method="POST"), 405, "method_not_allowed"),
        (get("/v1/completions"), 405, "method_not_allowed"),
        (get("/health", "Origin: https://evil.example"), 403, "bad_origin"),
        (get("/health", "Origin: null"), 403, "bad_origin"),
        (get("/v1/models", "Origin: http://127.0.0.1.evil.example"), 403, "bad_origin"),
        (get("/health", host="attacker.example"), 403, "bad_host"),
        (get("/v1/models", host="127.0.0.1.evil.example:80"), 403, "bad_host"),
    ],
)
async def test_what_is_refused_is_said_in_json(model, request_, status, code):
    async with LMTPServer(model) as server:
        got, headers, body = await answer(server.port, request_)
    assert (got, headers["content-type"]) == (status, "application/json")
    assert json.loads(body)["error"]["code"] == code
    if status == 405:
        assert headers["allow"] in ("GET", "POST")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:80", "localhost", "LOCALHOST:1", "[::1]:8080", "10.1.2.3"]
)
async def test_addresses_and_localhost_are_names_of_the_server(model, host):
    async with LMTPServer(model) as server:
        assert (await answer(server.port, get("/health", host=host)))[0] == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET  /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n X: folded\r\nbad line\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        b"\x00" * 64 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_garbage_ends_its_connection_and_no_other(model, garbage):
    settings = ServerSettings(handshake_seconds=1.0)
    async with LMTPServer(model, settings=settings) as server, raw_client(server.port) as neighbour:
        assert await neighbour.upgrade() == 101
        async with raw_client(server.port) as client:
            await client.send(garbage)
            said = await client.rest()
        assert not said or said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501", b"HTTP/1.1 505")), said
        await neighbour.tell({"type": "hello", "versions": [2]})
        assert (await neighbour.messages())[0]["type"] == "welcome"


@pytest.mark.parametrize("endless", [b"X-Header: 1\r\n", b"X" * 1000])
async def test_endless_headers_end_early_and_cost_nothing(model, endless):
    async with LMTPServer(model) as server, raw_client(server.port) as client:
        before = psutil.Process().memory_info().rss
        await client.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        sent = 0
        while sent < 40 * MIB and not client.writer.is_closing() and not client.reader.at_eof():
            await client.send(endless * 100)
            sent += len(endless) * 100
            await asyncio.sleep(0)
        assert sent < 40 * MIB
        assert psutil.Process().memory_info().rss - before < 20 * MIB


@pytest.mark.parametrize("beginning", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_half_a_request_is_cut_off(model, beginning):
    settings = ServerSettings(handshake_seconds=0.2)
    async with LMTPServer(model, settings=settings) as server, raw_client(server.port) as client:
        await client.send(beginning)
        assert await client.rest() == b""


async def test_two_hundred_half_requests_are_cut_off_and_the_server_answers(model):
    settings = ServerSettings(handshake_seconds=0.5)
    async with LMTPServer(model, settings=settings) as server:
        pairs = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
        for _, writer in pairs:
            writer.write(b"GET / HTTP/1.1\r\n")
        assert (await answer(server.port, get("/health")))[0] == 200
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(_to_the_end(reader) for reader, _ in pairs))
        for _, writer in pairs:
            writer.close()


async def _to_the_end(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        assert await reader.read() == b""


async def test_half_of_a_second_request_is_cut_off_too(model):
    settings = ServerSettings(handshake_seconds=0.3)
    async with LMTPServer(model, settings=settings) as server, raw_client(server.port) as client:
        await client.send(get("/health"))
        assert (await client.answer())[0] == 200
        await client.send(b"GET /hea")
        assert await client.rest() == b""


async def test_a_body_that_trickles_is_refused(model):
    settings = ServerSettings(body_seconds=0.3)
    async with (
        LMTPServer(model, settings=settings, routes={("POST", "/echo"): echo}) as server,
        raw_client(server.port) as client,
    ):
        await client.send(get("/echo", "Content-Length: 1000", method="POST") + b"a")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert await client.rest() == b""


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
async def test_a_body_within_the_limit_arrives_whole(model, size):
    settings = ServerSettings(max_body_bytes=1000)
    async with LMTPServer(model, settings=settings, routes={("POST", "/echo"): echo}) as server:
        request = get("/echo", f"Content-Length: {size}", method="POST") + b"a" * size
        status, _, body = await answer(server.port, request)
        assert (status, body) == (200, str(size).encode())


@pytest.mark.parametrize("length", [1001, 4001, 10**12])
async def test_a_body_beyond_the_limit_is_refused_by_its_length(model, length):
    settings = ServerSettings(max_body_bytes=1000)
    async with (
        LMTPServer(model, settings=settings, routes={("POST", "/echo"): echo}) as server,
        raw_client(server.port) as client,
    ):
        await client.send(get("/echo", f"Content-Length: {length}", method="POST") + b"a" * min(length, 5000))
        status, _, body = await client.answer()
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(("mib", "is_answered"), [(40, True), (200, False)])
async def test_a_body_without_a_length_is_bounded_too(model, mib, is_answered):
    async with (
        LMTPServer(model, routes={("POST", "/echo"): echo}) as server,
        raw_client(server.port) as client,
    ):
        before = psutil.Process().memory_info().rss
        await client.send(get("/echo", "Transfer-Encoding: chunked", method="POST"))
        chunk = b"100000\r\n" + b"a" * MIB + b"\r\n"
        for _ in range(mib):
            await client.send(chunk)
        await client.send(b"0\r\n\r\n")
        said = await client.rest()
        assert said.startswith(b"HTTP/1.1 413") or not is_answered
        assert psutil.Process().memory_info().rss - before < 60 * MIB


async def test_connections_have_a_number(model):
    settings = ServerSettings(max_connections=3)
    async with LMTPServer(model, settings=settings) as server:
        async with (
            raw_client(server.port),
            raw_client(server.port) as second,
            raw_client(server.port) as third,
        ):
            for client in (second, third):
                await client.send(get("/health"))
                assert (await client.answer())[0] == 200
            async with raw_client(server.port) as fourth:
                status, headers, body = await fourth.answer()
            assert (status, headers["retry-after"]) == (503, "1")
            assert json.loads(body)["error"]["code"] == "overloaded"
        await no_connections(server)
        assert (await answer(server.port, get("/health")))[0] == 200


async def test_requests_that_run_have_a_number(model):
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(request):
        entered.set()
        await leave.wait()
        return HttpResponse(body=b"done")

    settings = ServerSettings(max_requests=1)
    async with LMTPServer(model, settings=settings, routes={("GET", "/wait"): wait}) as server:
        first = asyncio.create_task(answer(server.port, get("/wait")))
        await entered.wait()
        status, headers, _ = await answer(server.port, get("/wait"))
        assert (status, headers["retry-after"]) == (429, "1")
        assert (await answer(server.port, get("/health")))[0] == 200
        leave.set()
        assert (await first)[2] == b"done"


async def test_a_handler_is_cancelled_when_its_client_goes_away(model):
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request):
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with LMTPServer(model, routes={("POST", "/wait"): wait}) as server:
        async with raw_client(server.port) as client:
            await client.send(get("/wait", "Content-Length: 2", method="POST") + b"{}")
            await entered.wait()
        async with asyncio.timeout(DEADLINE):
            await cancelled.wait()


@pytest.mark.parametrize("half", ["close", "half close", "reset"])
async def test_a_streamed_body_is_closed_when_its_client_goes_away(model, half):
    begun, closed = asyncio.Event(), asyncio.Event()

    async def parts():
        try:
            while True:
                yield b"data: x\n\n"
                begun.set()
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    async def stream(request):
        return HttpResponse(body=parts(), content_type="text/event-stream")

    async with (
        LMTPServer(model, routes={("GET", "/stream"): stream}) as server,
        raw_client(server.port) as client,
    ):
        await client.send(get("/stream"))
        await begun.wait()
        if half == "half close":
            client.writer.write_eof()
        elif half == "reset":
            client.writer.transport.abort()
        else:
            client.writer.close()
        async with asyncio.timeout(DEADLINE):
            await closed.wait()


async def test_a_client_that_reads_nothing_is_cut_off(model):
    closed = asyncio.Event()

    async def parts():
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.set()

    async def stream(request):
        return HttpResponse(body=parts())

    settings = ServerSettings(stall_seconds=0.3)
    async with (
        LMTPServer(model, settings=settings, routes={("GET", "/stream"): stream}) as server,
        raw_client(server.port) as client,
    ):
        client.writer.transport.pause_reading()
        await client.send(get("/stream"))
        async with asyncio.timeout(DEADLINE):
            await closed.wait()
            await no_connections(server)


async def test_errors_of_routes_are_answers(model, caplog):
    async def bad(request):
        raise InvalidRequestError("no.", remedy="Do.")

    async def busy(request):
        raise OverloadedError("busy.", retry_after=2.5)

    async def broken(request):
        raise KeyError("secret")

    routes = {("GET", "/bad"): bad, ("GET", "/busy"): busy, ("GET", "/broken"): broken}
    async with LMTPServer(model, routes=routes) as server:
        status, _, body = await answer(server.port, get("/bad"))
        assert (status, json.loads(body)["error"]["message"]) == (400, "no. Do.")
        status, headers, _ = await answer(server.port, get("/busy"))
        assert (status, headers["retry-after"]) == (429, "3")
        status, _, body = await answer(server.port, get("/broken"))
        assert status == 500
        assert b"secret" not in body
    assert "the route /broken failed" in caplog.text


async def test_a_stream_that_fails_does_not_look_whole(model):
    async def parts():
        yield b"beginning"
        raise KeyError("x")

    async def stream(request):
        return HttpResponse(body=parts())

    async with (
        LMTPServer(model, routes={("GET", "/stream"): stream}) as server,
        raw_client(server.port) as client,
    ):
        await client.send(get("/stream"))
        said = await client.rest()
    assert b"beginning" in said
    assert not said.endswith(b"0\r\n\r\n")


async def test_listed_pages_may_use_the_server(model):
    settings = ServerSettings(allowed_origins=("https://app.example",), token="long-enough")
    origin = "Origin: https://app.example"
    async with LMTPServer(model, settings=settings) as server:
        asking = get("/v1/models", origin, "Access-Control-Request-Method: GET", method="OPTIONS")
        status, headers, _ = await answer(server.port, asking)
        assert (status, headers["access-control-allow-origin"]) == (204, "https://app.example")
        status, headers, _ = await answer(
            server.port, get("/v1/models", origin, "Authorization: Bearer long-enough")
        )
        assert (status, headers["access-control-allow-origin"]) == (200, "https://app.example")
        evil = get(
            "/v1/models",
            "Origin: https://evil.example",
            "Access-Control-Request-Method: GET",
            method="OPTIONS",
        )
        assert (await answer(server.port, evil))[0] == 403


async def test_longest_path_wins(model):
    def says(text):
        async def handler(request):
            return HttpResponse(body=f"{text} {request.path} {request.query}".encode())

        return handler

    routes = {("GET", "/a/*"): says("a"), ("GET", "/a/b/*"): says("b"), ("GET", "/a/c"): says("c")}
    async with LMTPServer(model, routes=routes) as server:
        assert (await answer(server.port, get("/a/x/y?k=v")))[2] == b"a /a/x/y {'k': 'v'}"
        assert (await answer(server.port, get("/a/b/y")))[2] == b"b /a/b/y {}"
        assert (await answer(server.port, get("/a/c")))[2] == b"c /a/c {}"


async def test_a_port_in_use_is_an_error_that_says_so(model):
    from dcmodel.errors import SetupError

    async with LMTPServer(model) as server:
        with pytest.raises(SetupError, match=f"cannot listen on 127.0.0.1:{server.port}"):
            await LMTPServer(model, port=server.port).start()


async def test_closing_takes_no_time_with_open_connections(model):
    async with LMTPServer(model) as server:
        clients = [raw_client(server.port) for _ in range(3)]
        opened = [await client.__aenter__() for client in clients]
        assert await opened[0].upgrade() == 101
        began = time.monotonic()
        await server.aclose()
        assert time.monotonic() - began < 4  # a polite goodbye may take 5
        assert await opened[0].close_code() == 1012
        for client in clients:
            await client.__aexit__(None, None, None)


async def no_connections(server: LMTPServer) -> None:
    async with asyncio.timeout(DEADLINE):
        await server._listener._connections.empty.wait()
