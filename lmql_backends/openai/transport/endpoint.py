"""`Endpoint`: one endpoint as seen from one event loop: its connections, its gates, its groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec

from dcmodel.errors import ModelClosedError
from lmql_backends.openai.transport.configuration import Configuration
from lmql_backends.openai.transport.counters import Counters
from lmql_backends.openai.transport.event_source import EventSource, first_chunk
from lmql_backends.openai.transport.failures import AttemptFailed, Kind, from_event, from_response
from lmql_backends.openai.transport.gate import Gate, Slot
from lmql_backends.openai.transport.grouping import Grouper
from lmql_backends.openai.transport.hedging import Hedging
from lmql_backends.openai.transport.http import Http, OpenReply, Reply, is_json
from lmql_backends.openai.transport.jobs import Attempt, Runner
from lmql_backends.openai.transport.settings import TransportSettings


class Endpoint:
    """Sends requests, tells their gates of the headers, and turns refusals into failures."""

    def __init__(
        self,
        configuration: Configuration,
        http: Http,
        settings: TransportSettings,
        counters: Counters,
        rng: Random,
        wall_time: Callable[[], float],
    ) -> None:
        self._configuration = configuration
        self._http = http
        self._settings = settings
        self._counters = counters
        self._rng = rng
        self._wall_time = wall_time
        self._is_closed = False
        self._runners: dict[str, Runner] = {}
        self._groupers: dict[tuple[str, str], Grouper] = {}

    def runner(self, model: str) -> Runner:
        """Gate, retries and hedges of a model."""
        runner = self._runners.get(model)
        if runner is None:
            runner = self._runners[model] = Runner(
                Gate(self._settings.control, self._rng),
                self._settings.retry,
                Hedging(self._settings.hedge),
                self._counters,
                self._rng,
            )
        return runner

    def grouper(self, path: str, model: str) -> Grouper:
        """The groups of a route and model."""
        grouper = self._groupers.get((path, model))
        if grouper is None:

            async def send(body: bytes, seconds: float) -> Reply:
                return await self.request("POST", path, model, body, seconds)

            where = self._configuration.base_url
            grouper = self._groupers[path, model] = Grouper(
                self.runner(model), send, self._settings.group, self._counters, where
            )
        return grouper

    async def request(self, method: str, path: str, model: str, body: bytes | None, seconds: float) -> Reply:
        """A response of status 200. Raises `AttemptFailed`."""
        self._check_open()
        target = await self._configuration.target(method, path, model)
        reply = await self._http.request(method, target, body, seconds)
        self.runner(model).gate.saw(reply.headers)
        if reply.status != 200:
            raise from_response(reply.status, reply.headers, reply.body, self._wall_time())
        return reply

    def opening(self, path: str, model: str, body: Mapping[str, Any]) -> Attempt[EventSource]:
        """What asks for a stream of this body, and waits for its first event."""
        encoded = msgspec.json.encode({**body, "stream": True})
        loop = asyncio.get_running_loop()

        async def attempt(slot: Slot, seconds: float) -> EventSource:
            self._check_open()
            until = loop.time() + seconds
            target = await self._configuration.target("POST", path, model)
            reply = await self._http.open(target, encoded, seconds)
            self.runner(model).gate.saw(reply.headers)
            left = max(until - loop.time(), 0.001)
            if reply.status == 200 and not is_json(reply.headers):
                return await first_chunk(reply, slot, left, self._settings.retry.stall_seconds)
            return await self._refused(reply, left)

        return attempt

    async def aclose(self) -> None:
        """Cancel the groups and close the connections; what still runs gets `ModelClosedError`."""
        self._is_closed = True
        for runner in self._runners.values():
            runner.gate.close()
        for grouper in self._groupers.values():
            await grouper.aclose()
        await self._http.aclose()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ModelClosedError("the transport was closed while the request ran.")

    async def _refused(self, reply: OpenReply, seconds: float) -> EventSource:
        try:
            async with asyncio.timeout(seconds):
                body = await reply.read()
        except TimeoutError as error:
            raise AttemptFailed(Kind.TIMEOUT, f"no whole answer within {seconds:g} seconds") from error
        finally:
            reply.close()
        if reply.status != 200:
            raise from_response(reply.status, reply.headers, body, self._wall_time())
        try:
            message = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            message = None
        if isinstance(message, dict) and message.get("error") is not None:
            raise from_event(message["error"])
        raise AttemptFailed(Kind.BAD_RESPONSE, "JSON instead of a stream of events")
