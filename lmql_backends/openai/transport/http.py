"""HTTP as the transport needs it, and its fast form over aiohttp."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from dcmodel.errors import MissingDependencyError
from lmql_backends.openai.transport.failures import AttemptFailed, Kind

if TYPE_CHECKING:
    import aiohttp

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
DRAIN_SECONDS = 1.0
LET_GO_SECONDS = 0.5
IDLE_SECONDS = 30.0
"""How long an idle connection is kept: less than what most servers keep it for."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes, with every header that it carries."""

    url: str
    headers: Mapping[str, str]
    proxy: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response. Header names compare without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class OpenReply(ABC):
    """A response whose body is still to come. `close` is due in any case."""

    status: int
    headers: Mapping[str, str]

    @abstractmethod
    async def read(self) -> bytes:
        """The whole body. Raises `AttemptFailed`."""

    @abstractmethod
    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes; ends where the server ends it. Raises `AttemptFailed` where it is torn."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, so that the server stops, unless the body was read to its end."""

    @abstractmethod
    def finish(self) -> None:
        """Nothing of interest follows: let the connection serve other requests as soon as the body ends."""


class Http(ABC):
    """One connection pool, of one event loop. A cancelled request closes its connection."""

    @abstractmethod
    async def request(self, method: str, target: Target, body: bytes | None, seconds: float) -> Reply:
        """Send, and read the whole response. Raises `AttemptFailed` (connection or timeout)."""

    @abstractmethod
    async def open(self, target: Target, body: bytes, seconds: float) -> OpenReply:
        """POST, and return as soon as the headers are there, within `seconds`. Raises `AttemptFailed`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all connections."""


class AiohttpHttp(Http):
    """Keep-alive connections without a limit of their own: the gate limits."""

    def __init__(self) -> None:
        try:
            import aiohttp
        except ImportError as error:
            raise MissingDependencyError(
                "the OpenAI backend needs the package aiohttp.", remedy="Run: pip install 'dcmodel[openai]'"
            ) from error
        self._errors: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError)
        self._aiohttp = aiohttp
        self._drains: set[asyncio.Task[None]] = set()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        weakref.finalize(self, _let_go, self._session, asyncio.get_running_loop())

    async def request(self, method: str, target: Target, body: bytes | None, seconds: float) -> Reply:
        limits = self._aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.request(
                method,
                target.url,
                data=body,
                headers=target.headers,
                proxy=target.proxy,
                timeout=limits,
                allow_redirects=False,
            ) as response:
                return Reply(response.status, response.headers, await response.read())
        except TimeoutError as error:
            raise AttemptFailed(Kind.TIMEOUT, f"no answer within {seconds:g} seconds") from error
        except self._errors as error:
            raise _broken(error) from error

    async def open(self, target: Target, body: bytes, seconds: float) -> OpenReply:
        limits = self._aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                response = await self._session.request(
                    "POST",
                    target.url,
                    data=body,
                    headers=target.headers,
                    proxy=target.proxy,
                    timeout=limits,
                    allow_redirects=False,
                )
        except TimeoutError as error:
            raise AttemptFailed(Kind.TIMEOUT, f"no answer within {seconds:g} seconds") from error
        except self._errors as error:
            raise _broken(error) from error
        return _AiohttpReply(response, self._errors, self._drains)

    async def aclose(self) -> None:
        for drain in self._drains:
            drain.cancel()
        if self._drains:
            await asyncio.wait(self._drains)
        await self._session.close()


class _AiohttpReply(OpenReply):
    def __init__(
        self,
        response: aiohttp.ClientResponse,
        errors: tuple[type[Exception], ...],
        drains: set[asyncio.Task[None]],
    ) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._errors = errors
        self._drains = drains

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except self._errors as error:
            raise _broken(error) from error

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except self._errors as error:
            raise _broken(error) from error

    def close(self) -> None:
        self._response.close()

    def finish(self) -> None:
        if self._response.content.at_eof():
            self._response.close()
            return
        task = asyncio.get_running_loop().create_task(self._drain())
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)
        # Also of a task that was cancelled before its first step.
        task.add_done_callback(lambda _: self._response.close())

    async def _drain(self) -> None:
        """The end of a stream often comes in a packet of its own, just behind the last event."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._response.content.readany()
        except self._errors as error:
            logger.debug("a finished stream did not end: %r", error)


def _let_go(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    """Close the connections of a model that nobody closed, when it is collected or the program ends: aiohttp
    would print that they are open."""
    connector = session.connector
    if connector is None or connector.closed or not (loop.is_running() or loop.is_closed()):
        return
    session.detach()
    closing = connector.close()
    if loop.is_running() and loop is not asyncio._get_running_loop():
        future = asyncio.run_coroutine_threadsafe(_finished(closing), loop)
        concurrent.futures.wait([future], timeout=LET_GO_SECONDS)
    else:  # as far as it goes without waiting: the connections are closed then
        with contextlib.suppress(StopIteration):
            closing.__await__().send(None)


async def _finished(closing: Awaitable[None]) -> None:
    await closing


def _broken(error: Exception) -> AttemptFailed:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return AttemptFailed(Kind.CONNECTION, text)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for this address (HTTPS_PROXY, NO_PROXY and their like)."""
    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def is_json(headers: Mapping[str, Any]) -> bool:
    """Whether a response says that it is JSON, or says nothing."""
    content_type = headers.get("content-type", "application/json")
    return "json" in content_type
