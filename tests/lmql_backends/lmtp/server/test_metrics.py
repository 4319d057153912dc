"""What is counted and logged, whichever protocol asks."""

from __future__ import annotations

import asyncio
import io
import json
import logging

import httpx
import pytest
from fakes.fake_engine import loaded_fake
from fakes.raw_client import DEADLINE, frame, raw_client
from fakes.small_tokenizer import small_tokenizer

from dcmodel.errors import InvalidRequestError
from dcmodel.local import LocalDcModel
from dcmodel.types import GenerateRequest, ScoreRequest
from lmql_backends.lmtp.server.logs import JsonFormatter, TextFormatter, log_no_more, log_to
from lmql_backends.lmtp.server.metering import MeteredModels
from lmql_backends.lmtp.server.metrics import Metrics
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.server import LMTPServer


@pytest.fixture
async def model():
    made = LocalDcModel(loaded_fake(small_tokenizer(), nan_token=77))
    yield made
    await made.aclose()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def metered(model, metrics, clock):
    async with MeteredModels(StaticModels(model), metrics, clock).use("") as served:
        yield served.model


def value(metrics, name: str, **labels) -> float:
    return metrics._registry.get_sample_value(f"dcmodel_{name}", {"model": "fake", **labels}) or 0.0


def ended(metrics, outcome: str, kind: str = "generate") -> float:
    return value(metrics, "requests_total", kind=kind, outcome=outcome)


def asking(*prompt: int, **options) -> GenerateRequest:
    options.setdefault("max_tokens", 5)
    return GenerateRequest(prompt_ids=prompt, ignore_eos=True, **options)


async def test_a_stream_is_counted_from_its_first_token_to_its_end(metered, metrics, clock):
    stream = metered.generate(asking(5, 6))
    assert (value(metrics, "streams_running"), value(metrics, "streams_waiting")) == (1, 1)
    clock.now = 0.25
    await stream.__anext__()
    assert (value(metrics, "streams_running"), value(metrics, "streams_waiting")) == (1, 0)
    assert value(metrics, "time_to_first_token_seconds_sum") == 0.25
    clock.now = 2.0
    async for _ in stream:
        pass
    await stream.completion()
    assert ended(metrics, "length") == 1
    assert (value(metrics, "streams_running"), value(metrics, "streams_waiting")) == (0, 0)
    assert value(metrics, "tokens_total", kind="prompt") == 2
    assert value(metrics, "tokens_total", kind="completion") == 5
    assert value(metrics, "request_seconds_sum", kind="generate") == 2.0


async def test_a_stream_that_nobody_iterates_is_counted(metered, metrics):
    await metered.generate(asking(5, 6)).completion()
    assert ended(metrics, "length") == 1
    assert value(metrics, "tokens_total", kind="completion") == 5


async def test_a_resumed_stream_counts_its_new_tokens(metered, metrics):
    first = await metered.generate(asking(5, 6)).completion()
    await metered.generate(asking(5, 6, resumed=first.token_ids[:3])).completion()
    assert value(metrics, "tokens_total", kind="completion") == 7


async def test_watched_streams_are_counted(metered, metrics):
    news = asyncio.Event()
    stream = metered.generate(asking(5, 6))
    assert stream.watch(news.set)
    async with asyncio.timeout(DEADLINE):
        while not stream.is_exhausted:
            await news.wait()
            news.clear()
            stream.ready()
    assert ended(metrics, "length") == 1
    assert value(metrics, "tokens_total", kind="completion") == 5


async def test_how_streams_end_early(metered, metrics):
    stream = metered.generate(asking(5, 6, max_tokens=400))
    stream.cancel()
    stream.cancel()
    assert (await stream.completion()).finish_reason == "cancelled"
    assert ended(metrics, "cancelled") == 1
    dropped = metered.generate(asking(5, 6, max_tokens=400))
    del dropped
    assert ended(metrics, "cancelled") == 2
    with pytest.raises(Exception, match="NaN"):
        await metered.generate(asking(77)).completion()
    assert ended(metrics, "non_finite_logits") == 1
    with pytest.raises(InvalidRequestError):
        metered.generate(asking(10**6))
    assert ended(metrics, "token_range") == 1
    assert (value(metrics, "streams_running"), value(metrics, "streams_waiting")) == (0, 0)


async def test_questions_are_counted_by_their_kind(metered, metrics):
    await metered.score(ScoreRequest(prompt_ids=(5, 6), continuations=((7, 8), (9,))))
    await metered.next_tokens([[5, 6]], k=2)
    await metered.session(asking(5))
    with pytest.raises(InvalidRequestError):
        await metered.score(ScoreRequest(prompt_ids=(5,), continuations=((10**6,),)))
    for kind in ("score", "next_tokens", "session"):
        assert ended(metrics, "ok", kind) == 1
    assert ended(metrics, "token_range", "score") == 1


async def test_every_protocol_is_counted_at_the_route(model):
    async with LMTPServer(model) as server, httpx.AsyncClient(base_url=server.http_url) as http:
        async with raw_client(server.port) as client:
            assert await client.upgrade() == 101
            request = {"prompt": [5, 6], "max_tokens": 3, "ignore_eos": True}
            await client.tell(
                {"type": "hello", "versions": [2]}, {"type": "generate", "id": 1, "request": request}
            )
            said = b""
            while b'"done"' not in said:
                said += (await client.frame())[1]
            assert b"dcmodel_websockets 1.0" in (await http.get("/metrics")).content
        async with raw_client(server.port) as client:
            assert await client.upgrade(protocol=None) == 101
            body = {"model": "fake", "prompt": [5, 6], "max_tokens": 3, "stream_id": 1}
            await client.send(frame(1, b"GENERATE " + json.dumps(body).encode()))
            said = b""
            while b'"finish_reason":"' not in said:
                said += (await client.frame())[1]
        body = {"model": "fake", "prompt": [5, 6], "max_tokens": 3, "ignore_eos": True}
        assert (await http.post("/v1/completions", json=body)).status_code == 200
        answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    counted = [line for line in answer.text.splitlines() if line.startswith("dcmodel_requests_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in counted) == 3


# -- logs ------------------------------------------------------------------------------------------


def record(message: str, **fields) -> logging.LogRecord:
    made = logging.LogRecord("a.b", logging.INFO, "", 0, message, (), None)
    made.fields = fields
    return made


def test_lines_and_terminals_are_safe_from_what_clients_send():
    line = TextFormatter().format(record("a\nb\x1b[31m", model="x\r\ny z", empty=""))
    assert line.endswith('INFO a\\nb\\x1b[31m model="x\\\\r\\\\ny z" empty=""')
    assert "\n" not in line
    assert "\x1b" not in line


def test_json_logs_are_one_object_per_line():
    line = JsonFormatter().format(record("request", model="a\nb", tokens=3))
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["message"], entry["model"], entry["tokens"], entry["level"]) == (
        "request",
        "a\nb",
        3,
        "info",
    )


async def test_each_request_is_one_line_without_its_text(metered):
    out = io.StringIO()
    handler = log_to(out, "json", logging.INFO)
    try:
        await metered.generate(asking(5, 6)).completion()
    finally:
        log_no_more(handler)
    await metered.generate(asking(5, 6)).completion()
    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    del entry["time"]
    assert entry == {
        "level": "info",
        "logger": "lmql_backends.lmtp.requests",
        "message": "request",
        "model": "fake",
        "kind": "generate",
        "outcome": "length",
        "prompt_tokens": 2,
        "tokens": 5,
        "seconds": 0.0,
    }
