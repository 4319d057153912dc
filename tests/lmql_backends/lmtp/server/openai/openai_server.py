"""The routes under the real server, in a thread with a loop of its own, for the official client."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Mapping

from dcmodel.model import DcModel
from lmql_backends.lmtp.server.contracts import ServedModel
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.openai import openai_routes
from lmql_backends.lmtp.server.server import LMTPServer


class CountedModels(StaticModels):
    """Knows how many requests use a model just now."""

    def __init__(self, models: Mapping[str, DcModel]) -> None:
        super().__init__(models)
        self.users = 0
        self.left = threading.Event()
        """Set each time that the last user leaves."""

    def use(self, name: str):
        return self._counted(super().use(name))

    @contextlib.asynccontextmanager
    async def _counted(self, inner) -> AsyncIterator[ServedModel]:
        async with inner as served:
            self.users += 1
            try:
                yield served
            finally:
                self.users -= 1
                if not self.users:
                    self.left.set()


class Server:
    """A running server; `url` is its address."""

    def __init__(self, models: Mapping[str, DcModel], limits: ConnectionLimits | None = None) -> None:
        self.models = CountedModels(models)
        self.limits = limits or ConnectionLimits()
        self.url = ""
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(60)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(60)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        routes = openai_routes(self.models, clock=lambda: 1_700_000_000.0, limits=self.limits)
        async with LMTPServer(self.models, routes=routes) as server:
            self.url = server.http_url
            self._started.set()
            await self._end.wait()


@contextlib.contextmanager
def running(models: Mapping[str, DcModel], limits: ConnectionLimits | None = None) -> Iterator[Server]:
    server = Server(models, limits)
    server.start()
    try:
        yield server
    finally:
        server.stop()
