"""Replicate's own client, unmodified, against the stand-in: it speaks as Replicate does."""

from __future__ import annotations

import asyncio
import json
import warnings

import pytest
import pytest_asyncio
from fakes.replicate_server import NAME, OWNER, TOKEN, VERSION

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its pydantic is older than ours
    replicate = pytest.importorskip("replicate")

GREETING = json.dumps([{"type": "hello", "versions": [2]}, {"type": "describe", "id": 7}])


@pytest_asyncio.fixture
async def client(server):
    client = replicate.Client(api_token=TOKEN, base_url=server.url)
    yield client
    await client._async_client.aclose()
    client._client.close()


async def test_it_finds_the_model_and_its_version(client):
    model = await client.models.async_get(f"{OWNER}/{NAME}")
    assert model.latest_version.id == VERSION


async def test_it_runs_a_prediction_to_its_end(client):
    prediction = await client.predictions.async_create(version=VERSION, input={"lmtp_frame": GREETING})
    await prediction.async_wait()
    assert prediction.status == "succeeded"
    lines = "".join(prediction.output).splitlines()
    assert [message["type"] for line in lines for message in json.loads(line)] == ["welcome", "described"]


async def test_it_reads_the_event_stream(client):
    prediction = await client.predictions.async_create(
        version=VERSION, input={"lmtp_frame": GREETING}, stream=True
    )
    events = [event async for event in prediction.async_stream()]
    assert [event.event.value for event in events][-1] == "done"
    text = "".join(event.data for event in events if event.event.value == "output")
    assert [message["type"] for line in text.splitlines() for message in json.loads(line)] == [
        "welcome",
        "described",
    ]


async def test_it_asks_a_deployment(client, server):
    prediction = await client.deployments.predictions.async_create(
        deployment=(OWNER, NAME), input={"lmtp_frame": GREETING}
    )
    await prediction.async_wait()
    assert prediction.status == "succeeded"


async def test_it_cancels_a_prediction(client, server):
    server.booted.clear()
    prediction = await client.predictions.async_create(version=VERSION, input={"lmtp_frame": GREETING})
    await prediction.async_cancel()
    assert server.cancelled == [prediction.id]
    await prediction.async_reload()
    assert prediction.status == "canceled"


async def test_its_errors_are_read_as_replicates(client):
    with pytest.raises(replicate.exceptions.ReplicateError) as caught:
        await client.models.async_get("nobody/nothing")
    assert caught.value.status == 404


async def test_a_synchronous_run_waits(client, server):
    output = await asyncio.to_thread(
        lambda: list(client.run(f"{OWNER}/{NAME}:{VERSION}", input={"lmtp_frame": GREETING}))
    )
    assert "described" in "".join(output)
