"""A server as a process: once told to end it drains, twice it ends. In this process, without signals."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
from contextlib import asynccontextmanager

import httpx
import pytest
from fakes.raw_client import DEADLINE, fake_model, raw_client
from websockets.asyncio.client import connect

from dcmodel.errors import ModelLoadError
from dcmodel.loop import run
from lmql_backends.lmtp.server.contracts import HttpResponse
from lmql_backends.lmtp.server.run import Ending, Stop, run_server
from lmql_backends.lmtp.server.server import LMTPServer


@pytest.fixture(scope="module")
def model():
    made = fake_model()
    yield made
    run(made.aclose())


@pytest.fixture
def stops(monkeypatch):
    """Every `Stop` that is made, so that a test can do what a signal does."""
    made = []
    enter = Stop.__enter__
    monkeypatch.setattr(Stop, "__enter__", lambda stop: made.append(stop) or enter(stop))
    return made


class Held:
    """A route whose answer waits for a word."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()

    async def __call__(self, request) -> HttpResponse:
        self.entered.set()
        await self.leave.wait()
        return HttpResponse(body=b"done")


@asynccontextmanager
async def running(model, held, **options):
    """A server with one request that runs."""
    server = LMTPServer(model, routes={("GET", "/held"): held})
    ready = asyncio.Event()
    options = {"load": _nothing, "announce": ready.set, "drain_seconds": DEADLINE, **options}
    task = asyncio.create_task(run_server(server, **options))
    await ready.wait()
    async with raw_client(server.port) as client:
        await client.send(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await held.entered.wait()
        yield task, client


async def _nothing() -> None:
    pass


async def test_once_it_drains(model, stops):
    held = Held()
    async with running(model, held) as (task, client):
        stops[0].ask()
        await asyncio.sleep(0.05)
        assert not task.done()
        held.leave.set()
        assert (await client.answer())[2] == b"done"
        assert await task is Ending.DRAINED


async def test_twice_it_ends_at_once(model, stops):
    async with running(model, Held()) as (task, client):
        stops[0].ask()
        stops[0].ask()
        async with asyncio.timeout(DEADLINE / 2):
            assert await task is Ending.CUT
        assert await client.rest() == b""


async def test_draining_has_a_deadline(model, stops):
    async with running(model, Held(), drain_seconds=0.05) as (task, _):
        stops[0].ask()
        assert await task is Ending.CUT


async def test_the_end_of_a_pipe_is_a_signal(model):
    read, write = os.pipe()
    held = Held()
    async with running(model, held, parent_pipe=read) as (task, _):
        os.write(write, b"ignored")
        os.close(write)
        held.leave.set()
        assert await task is Ending.DRAINED
    os.close(read)


async def test_what_loading_raises_ends_the_server(model):
    async def load() -> None:
        raise ModelLoadError("broken.")

    server = LMTPServer(model)
    with pytest.raises(ModelLoadError, match="broken"):
        await run_server(server, load=load, announce=lambda: None, drain_seconds=1)


async def test_a_server_that_loads_is_alive_and_not_ready(model, stops):
    server = LMTPServer(model, is_ready=lambda: False)
    loading = asyncio.Event()

    async def load() -> None:
        loading.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run_server(server, load=load, announce=lambda: None, drain_seconds=1))
    await loading.wait()
    async with httpx.AsyncClient(base_url=server.http_url) as http:
        assert (await http.get("/health")).status_code == 200
        answer = await http.get("/ready")
        assert (answer.status_code, answer.json()) == (503, {"status": "loading"})
    stops[0].ask()
    assert await task is Ending.UNLOADED


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    names = "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    line = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 {names} -keyout {folder}/key -out {folder}/cert"
    )
    try:
        subprocess.run(line.split(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl is not here")
    return folder


async def test_tls_serves_both_and_refuses_what_is_plain_or_untrusted(model, certificate):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate / "cert", certificate / "key")
    trusting = ssl.create_default_context(cafile=certificate / "cert")
    async with LMTPServer(model, tls=tls) as server:
        assert server.url.startswith("lmtps://")
        async with httpx.AsyncClient(base_url=server.http_url, verify=trusting) as http:
            assert (await http.get("/health")).status_code == 200
        url = f"wss://127.0.0.1:{server.port}/lmtp"
        async with connect(url, ssl=trusting, subprotocols=["lmtp.v2.json"]) as websocket:
            await websocket.send('[{"type": "hello", "versions": [2]}]')
            assert "welcome" in await websocket.recv()
        async with raw_client(server.port) as client:
            await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert not (await client.rest()).startswith(b"HTTP")
        async with httpx.AsyncClient(base_url=server.http_url) as http:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.get("/health")
        async with httpx.AsyncClient(base_url=server.http_url, verify=trusting) as http:
            assert (await http.get("/health")).status_code == 200
