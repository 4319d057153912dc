"""Replicate's HTTP API on this machine, after its public description, with the real predictor behind it.

Models, versions, deployments, predictions, their event streams (with Last-Event-ID), cancellation, cold
boots, rate limits, failures. `Faults` says what goes wrong; `created`, `cancelled` and `streams` say what
was asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

from aiohttp import web

TOKEN = "r8_token"
OWNER, NAME, VERSION = "ours", "tiny", "5c7d5dc6dd8bf75c"
OVER = ("succeeded", "failed", "canceled", "aborted")

Predict = Callable[[dict[str, Any]], AsyncGenerator[str, None]]


@dataclass
class Faults:
    """What goes wrong, each as often as it is listed."""

    creates: deque[tuple[int, dict[str, str], dict[str, Any]]] = field(default_factory=deque)
    """Answers to POSTs that create nothing: status, headers, body."""
    torn_creates: int = 0
    """How many creating POSTs are cut before they are answered; the prediction exists."""
    looks: deque[int] = field(default_factory=deque)
    """Statuses of GETs of predictions."""
    streams: deque[int] = field(default_factory=deque)
    """Statuses of event streams."""
    cuts: deque[int] = field(default_factory=deque)
    """After how many events a stream is cut in the middle of the next one."""
    ends: deque[tuple[int, str, str]] = field(default_factory=deque)
    """After how many pieces a prediction ends: with this status and error."""
    replay: str = "rest"
    """What a stream brings that is opened again: the ``rest`` behind Last-Event-ID, ``all``, or what is
    ``new``."""
    trims: bool = False
    """Whether the newline at the end of a piece is lost in events."""
    has_streams: bool = True
    is_silent: bool = False
    """Streams bring nothing."""


@dataclass
class Record:
    """One prediction."""

    id: str
    input: dict[str, Any]
    status: str = "starting"
    output: list[str] = field(default_factory=list)
    error: str | None = None
    task: asyncio.Task[None] | None = None
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    async def change(self, *, status: str = "", piece: str | None = None, error: str | None = None) -> None:
        async with self.news:
            if piece is not None:
                self.output.append(piece)
            self.status = status or self.status
            self.error = error or self.error
            self.news.notify_all()


class ReplicateServer:
    """Runs in the loop that enters it; `predict` gets the input of each prediction."""

    def __init__(self, predict: Predict, inputs: tuple[str, ...] = ("lmtp_frame", "ops_batch_json")) -> None:
        self.faults = Faults()
        self.booted = asyncio.Event()
        """Predictions start when it is set, as it is unless a test clears it."""
        self.booted.set()
        self.answering = asyncio.Event()
        """What creates a prediction is answered when it is set, as it is unless a test clears it."""
        self.answering.set()
        self.cutting = asyncio.Event()
        """`Faults.cuts` are made when it is set, as it is unless a test clears it."""
        self.cutting.set()
        self.created: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        """Of creating POSTs."""
        self.cancelled: list[str] = []
        self.streams: list[str] = []
        """What Last-Event-ID each stream was opened with."""
        self.records: dict[str, Record] = {}
        self.url = ""
        self._predict = predict
        self._inputs = inputs
        self._numbers = count(1)
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._authorized], client_max_size=64 << 20)
        app.add_routes(
            [
                web.get("/v1/models/{owner}/{name}", self._model),
                web.get("/v1/models/{owner}/{name}/versions/{version}", self._version),
                web.get("/v1/deployments/{owner}/{name}", self._deployment),
                web.post("/v1/predictions", self._create),
                web.post("/v1/deployments/{owner}/{name}/predictions", self._create),
                web.get("/v1/predictions/{id}", self._get),
                web.post("/v1/predictions/{id}/cancel", self._cancel),
                web.get("/streams/{id}", self._stream),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [record.task for record in self.records.values() if record.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert self._runner is not None
        await self._runner.cleanup()

    async def until(self, happened: Callable[[], object]) -> None:
        """Wait for what requests bring about."""
        while not happened():
            self._changed.clear()
            await self._changed.wait()

    # -- what stands behind names ------------------------------------------------------------------

    @web.middleware
    async def _authorized(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") not in (f"Bearer {TOKEN}", f"Token {TOKEN}"):
            return problem(401, "Unauthenticated", "You did not pass a valid authentication token")
        return await handler(request)

    async def _model(self, request: web.Request) -> web.Response:
        if not self._is_ours(request):
            return not_found()
        return web.json_response(
            {
                "url": f"https://replicate.com/{OWNER}/{NAME}",
                "owner": OWNER,
                "name": NAME,
                "description": None,
                "visibility": "private",
                "run_count": len(self.created),
                "latest_version": self._version_fields(),
            }
        )

    async def _version(self, request: web.Request) -> web.Response:
        if not self._is_ours(request) or request.match_info["version"] != VERSION:
            return not_found()
        return web.json_response(self._version_fields())

    async def _deployment(self, request: web.Request) -> web.Response:
        if not self._is_ours(request):
            return not_found()
        release = {"number": 1, "model": f"{OWNER}/{NAME}", "version": VERSION}
        return web.json_response({"owner": OWNER, "name": NAME, "current_release": release})

    def _is_ours(self, request: web.Request) -> bool:
        return (request.match_info["owner"], request.match_info["name"]) == (OWNER, NAME)

    def _version_fields(self) -> dict[str, Any]:
        properties = {name: {"type": "string", "title": name} for name in self._inputs}
        schema = {"components": {"schemas": {"Input": {"type": "object", "properties": properties}}}}
        return {
            "id": VERSION,
            "created_at": "2026-01-01T00:00:00Z",
            "cog_version": "0.16.0",
            "openapi_schema": schema,
        }

    # -- predictions -------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.created.append(body)
        self._changed.set()
        self.heads.append(dict(request.headers))
        if self.faults.creates:
            status, headers, fields = self.faults.creates.popleft()
            return web.json_response(fields, status=status, headers=headers)
        if "owner" in request.match_info:
            if not self._is_ours(request):
                return not_found()
        elif str(body.get("version", "")).rpartition(":")[2] != VERSION:
            return problem(422, "Invalid version or not permitted", "The specified version does not exist")
        record = Record(f"prediction{next(self._numbers)}", body["input"])
        self.records[record.id] = record
        record.task = asyncio.create_task(self._run(record))
        self._changed.set()
        await self.answering.wait()
        if self.faults.torn_creates:
            self.faults.torn_creates -= 1
            assert request.transport is not None
            request.transport.abort()
        if "wait" in request.headers.get("Prefer", ""):
            async with record.news:
                await record.news.wait_for(lambda: record.is_over)
        return web.json_response(self._fields(record), status=201)

    async def _run(self, record: Record) -> None:
        await self.booted.wait()
        if record.is_over:
            return
        end = self.faults.ends.popleft() if self.faults.ends else None
        if end is None or end[1] != "aborted":
            await record.change(status="processing")
        try:
            if end is not None and end[0] == 0:
                await record.change(status=end[1], error=end[2])
                return
            async for piece in self._predict(record.input):
                await record.change(piece=piece)
                if end is not None and len(record.output) >= end[0]:
                    await record.change(status=end[1], error=end[2])
                    return
        except Exception as error:
            await record.change(status="failed", error=str(error))
        else:
            await record.change(status="succeeded")

    async def _get(self, request: web.Request) -> web.Response:
        if self.faults.looks:
            return problem(self.faults.looks.popleft(), "Trouble", "of the platform")
        record = self.records.get(request.match_info["id"])
        return not_found() if record is None else web.json_response(self._fields(record))

    async def _cancel(self, request: web.Request) -> web.Response:
        record = self.records.get(request.match_info["id"])
        if record is None:
            return not_found()
        self.cancelled.append(record.id)
        self._changed.set()
        if not record.is_over:
            assert record.task is not None
            record.task.cancel()
            await asyncio.gather(record.task, return_exceptions=True)
            await record.change(status="canceled")
        return web.json_response(self._fields(record))

    def _fields(self, record: Record) -> dict[str, Any]:
        urls = {
            "get": f"{self.url}/v1/predictions/{record.id}",
            "cancel": f"{self.url}/v1/predictions/{record.id}/cancel",
        }
        if self.faults.has_streams:
            urls["stream"] = f"{self.url}/streams/{record.id}"
        return {
            "id": record.id,
            "model": f"{OWNER}/{NAME}",
            "version": VERSION,
            "input": record.input,
            "logs": "",
            "output": record.output or None,
            "error": record.error,
            "status": record.status,
            "created_at": "2026-01-01T00:00:00Z",
            "urls": urls,
        }

    # -- their streams -----------------------------------------------------------------------------

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        record = self.records.get(request.match_info["id"])
        last = request.headers.get("Last-Event-ID", "")
        self.streams.append(last)
        self._changed.set()
        if self.faults.streams:
            return problem(self.faults.streams.popleft(), "Trouble", "with the stream")
        if record is None:
            return not_found()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        place = self._start(record, last)
        limit = place + self.faults.cuts.popleft() if self.faults.cuts else None
        while True:
            await self._news_behind(record, place)
            if limit is not None and place >= limit:
                await self.cutting.wait()
                await response.write(b"event: output\nid: torn\ndata: [{\n")
                assert request.transport is not None
                request.transport.close()
                return response
            if place < len(record.output):
                await response.write(self._event(place, record.output[place]))
                place += 1
            elif record.is_over:
                await response.write(_last(record))
                await response.write_eof()
                return response

    async def _news_behind(self, record: Record, place: int) -> None:
        async with record.news:
            await record.news.wait_for(
                lambda: not self.faults.is_silent and (record.is_over or len(record.output) > place)
            )

    def _start(self, record: Record, last: str) -> int:
        if not last or self.faults.replay == "all":
            return 0
        return len(record.output) if self.faults.replay == "new" else int(last.partition(":")[0]) + 1

    def _event(self, place: int, piece: str) -> bytes:
        text = piece.removesuffix("\n") if self.faults.trims else piece
        lines = "".join(f"data: {line}\n" for line in text.split("\n"))
        return f"event: output\nid: {place}:0\n{lines}\n".encode()


def _last(record: Record) -> bytes:
    if record.status == "failed":
        return b'event: error\ndata: {"detail": "the prediction failed"}\n\n'
    reason = {"canceled": '{"reason": "canceled"}', "aborted": '{"reason": "error"}'}.get(record.status, "{}")
    return f"event: done\ndata: {reason}\n\n".encode()


def problem(status: int, title: str, detail: str) -> web.Response:
    return web.json_response({"title": title, "detail": detail, "status": status}, status=status)


def not_found() -> web.Response:
    return problem(404, "Not found", "The requested resource could not be found.")
