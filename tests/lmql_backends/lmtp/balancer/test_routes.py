"""Workers join, leave and are shown over HTTP."""

from __future__ import annotations

import httpx
import pytest
from fakes.failing_workers import Site
from fakes.fake_engine import loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel.local import LocalDcModel
from lmql_backends.lmtp.balancer.model import BalancedDcModel
from lmql_backends.lmtp.balancer.routes import worker_routes
from lmql_backends.lmtp.server.server import LMTPServer
from lmql_backends.lmtp.server.settings import ServerSettings

TOKEN = "a-token-of-the-tests"


@pytest.fixture
async def model():
    async with LocalDcModel(loaded_fake(small_tokenizer())) as model:
        yield model


async def test_workers_join_and_leave_over_http(model):
    site = Site()
    site.add("h:1", model)
    site.add("h:2", model)
    async with await BalancedDcModel.open(["h:1"], connect=site.connect, probe=site.probe) as balanced:
        pool = balanced.pool
        settings = ServerSettings(token=TOKEN)
        async with LMTPServer(balanced, settings=settings, routes=worker_routes(pool)) as server:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with httpx.AsyncClient(base_url=server.http_url) as stranger:
                assert (await stranger.get("/workers")).status_code == 401
            async with httpx.AsyncClient(base_url=server.http_url, headers=headers) as client:
                shown = (await client.get("/workers")).json()["workers"]
                assert [(item["address"], item["state"]) for item in shown] == [("h:1", "ready")]
                joined = await client.post("/workers", json={"address": "lmtp://h:2"})
                assert (joined.status_code, joined.json()["state"]) == (202, "joining")
                await pool.wait(lambda: all(worker.model is not None for worker in pool.workers))
                ids = list(model.tokenizer.encode("yes"))
                body = {"model": model.info.name, "prompt": ids, "max_tokens": 3, "temperature": 0}
                answer = await client.post("/v1/completions", json=body)
                assert answer.status_code == 200, answer.text
                left = await client.delete("/workers/h%3A1")
                assert left.json() == {"address": "h:1", "state": "gone"}
                assert [worker.address for worker in pool.workers] == ["h:2"]
                assert (await client.delete("/workers/h:1")).status_code == 404
                for wrong in (b"", b"{}", b"[", b'{"address": 5}', b'{"address": "h"}', b"[" * 100_000):
                    assert (await client.post("/workers", content=wrong)).status_code == 400
