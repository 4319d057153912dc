"""The application in other programs: mounted, under a server of their own, in process."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import uvicorn
from fakes.raw_client import DEADLINE, fake_model, raw_client

from dcmodel.loop import run
from lmql_backends.lmtp.server.app import create_app
from lmql_backends.lmtp.server.contracts import HttpResponse
from lmql_backends.lmtp.server.h11_guard import GuardedH11
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.websocket_guard import GuardedWebSocket


@pytest.fixture(scope="module")
def model():
    made = fake_model()
    yield made
    run(made.aclose())


async def test_it_answers_in_process_and_below_a_path(model):
    app = create_app(StaticModels(model))
    for root in ("", "/llm"):
        transport = httpx.ASGITransport(app, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            assert (await http.get(f"{root}/health")).json()["status"] == "ok"
            body = {"model": "fake", "prompt": "yes", "max_tokens": 3}
            answer = await http.post(f"{root}/v1/completions", json=body)
            assert answer.json()["object"] == "text_completion"
            assert (await http.head(f"{root}/health")).status_code == 200


async def test_lifespan_events_are_answered(model):
    events = iter(("lifespan.startup", "lifespan.shutdown"))
    said = []

    async def receive():
        return {"type": next(events)}

    async def send(event):
        said.append(event["type"])

    await create_app(StaticModels(model))({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_own_routes_go_before_ours(model):
    async def models(request) -> HttpResponse:
        return HttpResponse(body=b"mine")

    app = create_app(StaticModels(model), extra_routes={("GET", "/v1/models"): models})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        assert (await http.get("/v1/models")).text == "mine"


async def test_it_runs_under_another_programs_uvicorn(model):
    config = uvicorn.Config(
        create_app(StaticModels(model)),
        port=0,
        http=GuardedH11,
        ws=GuardedWebSocket,
        ws_per_message_deflate=False,
        ws_max_size=4 << 20,
        log_config=None,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    async with asyncio.timeout(DEADLINE):
        while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with raw_client(port) as client:
        assert await client.upgrade() == 101
        await client.tell({"type": "hello", "versions": [2]})
        assert (await client.messages())[0]["type"] == "welcome"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        assert (await http.get("/ready")).status_code == 200
    server.should_exit = True
    await task
