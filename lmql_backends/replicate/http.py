"""HTTP as this client needs it, over aiohttp. One attempt each; every failure is an `AttemptFailed`."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dcmodel.errors import MissingDependencyError
from lmql_backends.lmtp.server.settings import is_loopback
from lmql_backends.replicate.failures import AttemptFailed, Kind, from_response
from lmql_backends.replicate.settings import Settings

if TYPE_CHECKING:
    import aiohttp

CONNECT_SECONDS = 10.0
Pieces = AsyncGenerator[bytes, None]


class Http:
    """One connection pool, of the event loop that it is first used in."""

    def __init__(self, settings: Settings) -> None:
        """Raises `MissingDependencyError` without aiohttp."""
        try:
            import aiohttp
        except ImportError as error:
            raise MissingDependencyError(
                "models on Replicate need the package aiohttp.",
                remedy='Run: pip install "dcmodel[replicate]"',
            ) from error
        self._aiohttp = aiohttp
        self._errors: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError)
        self._settings = settings
        self._made: aiohttp.ClientSession | None = None
        self._is_secure = settings.base_url.startswith("https://")

    async def request(
        self, method: str, url: str, body: bytes | None = None, *, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """The whole body of an answer that says success. Raises `AttemptFailed`."""
        seconds = self._settings.request_seconds
        try:
            async with (
                asyncio.timeout(seconds),
                self._session().request(
                    method,
                    self._checked(url),
                    data=None if body is None else io.BytesIO(body),  # large ones go in parts
                    headers={**self._head(), **(headers or {})},
                    allow_redirects=False,
                ) as response,
            ):
                content = await response.read()
                if response.status >= 300:
                    raise from_response(response.status, response.headers, content, time.time())
                return content
        except TimeoutError as error:
            raise AttemptFailed(Kind.TIMEOUT, f"no answer within {seconds:g} seconds") from error
        except self._errors as error:
            raise _broken(error) from error

    @asynccontextmanager
    async def stream(
        self, url: str, *, last_event_id: str = ""
    ) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """The body of an event stream as it comes; ends where the server ends it. Raises `AttemptFailed`,
        also while it is read."""
        headers = {**self._head(), "Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        seconds = self._settings.request_seconds
        try:
            async with asyncio.timeout(seconds):
                response = await self._session().get(
                    self._checked(url), headers=headers, allow_redirects=False
                )
                if response.status >= 300:
                    content = await response.read()
                    raise from_response(response.status, response.headers, content, time.time())
        except TimeoutError as error:
            raise AttemptFailed(Kind.TIMEOUT, f"no stream within {seconds:g} seconds") from error
        except self._errors as error:
            raise _broken(error) from error
        try:
            yield self._pieces(response)
        finally:
            response.close()

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.close()

    # -- inside ------------------------------------------------------------------------------------

    async def _pieces(self, response: aiohttp.ClientResponse) -> Pieces:
        try:
            async for piece in response.content.iter_any():
                yield piece
        except TimeoutError as error:
            raise AttemptFailed(Kind.TIMEOUT, "the stream was silent for too long") from error
        except self._errors as error:
            raise _broken(error) from error

    def _session(self) -> aiohttp.ClientSession:
        if self._made is None:
            host = urlsplit(self._settings.base_url).hostname or ""
            self._made = self._aiohttp.ClientSession(
                connector=self._aiohttp.TCPConnector(limit=0),
                timeout=self._aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_SECONDS, sock_read=self._settings.stall_seconds
                ),
                cookie_jar=self._aiohttp.DummyCookieJar(),
                trust_env=not is_loopback(host),
            )
        return self._made

    def _head(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._settings.token}", "Content-Type": "application/json"}

    def _checked(self, url: str) -> str:
        """The token goes nowhere that anybody on the way can read it, unless its user said so."""
        if self._is_secure and not url.startswith("https://"):
            raise AttemptFailed(Kind.PERMANENT, f"the API names an address without TLS: {url:.200}")
        return url


def _broken(error: Exception) -> AttemptFailed:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return AttemptFailed(Kind.CONNECTION, text)
