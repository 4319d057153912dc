"""HTTP requests: read within bounds, answered by a route, and cancelled when the client goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping

from dcmodel.errors import DcModelError
from lmql_backends.lmtp.server.answers import error_answer, json_error
from lmql_backends.lmtp.server.asgi import (
    ABORT,
    Receive,
    Scope,
    Send,
    headers_of,
    path_of,
    query_of,
    raw_headers,
)
from lmql_backends.lmtp.server.contracts import CutError, Handler, HttpRequest, HttpResponse, Routes
from lmql_backends.lmtp.server.drain import Drain
from lmql_backends.lmtp.server.gate import Gate
from lmql_backends.lmtp.server.settings import ServerSettings

ALWAYS_ANSWERED = frozenset({"/health", "/ready", "/metrics"})
"""While the server drains or has too much to do, too."""

DISCARDED = 4
"""So many times the limit of a body is read in order to be thrown away."""

logger = logging.getLogger(__name__)


class HttpServer:
    """The routes behind their guards."""

    def __init__(self, routes: Routes, gate: Gate, drain: Drain, settings: ServerSettings) -> None:
        self._table = RouteTable(routes)
        self._gate = gate
        self._drain = drain
        self._settings = settings
        self.running = 0

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path, headers = path_of(scope), headers_of(scope)
        exchange = _Exchange(scope, receive, send, self._settings)
        refusal = self._preflight(scope, headers) or self._gate.refusal(path, headers)
        handler = refusal or self._table.find(scope["method"], path)
        if isinstance(handler, HttpResponse):
            await exchange.refuse(handler)
        elif path in ALWAYS_ANSWERED:
            await exchange.run(handler, path, headers)
        elif (busy := self._why_not()) is not None:
            await exchange.refuse(busy)
        else:
            self.running += 1
            try:
                with self._drain.run():
                    await exchange.run(handler, path, headers)
            finally:
                self.running -= 1

    def _why_not(self) -> HttpResponse | None:
        try:
            self._drain.check()
        except DcModelError as error:
            answer = error_answer(error)
            return HttpResponse(status=503, body=answer.body, headers=answer.headers)
        if self.running >= self._settings.max_requests:
            headers = {"retry-after": "1"}
            message = f"{self.running} requests are running, which is all that this server takes."
            return json_error(429, message, code="overloaded", headers=headers)
        return None

    def _preflight(self, scope: Scope, headers: Mapping[str, str]) -> HttpResponse | None:
        """The answer to a browser that asks what a page may do; it sends no token with that."""
        origin, method = headers.get("origin"), headers.get("access-control-request-method")
        if scope["method"] != "OPTIONS" or origin is None or method is None:
            return None
        if not self._gate.is_origin(origin, headers.get("host", "")):
            return None
        allowed = {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": "GET, POST, DELETE",
            "access-control-allow-headers": "authorization, content-type",
            "access-control-max-age": "600",
        }
        return HttpResponse(status=204, headers=allowed)


class RouteTable:
    """Routes by path; a path that ends in ``/*`` stands for all that begin so."""

    def __init__(self, routes: Routes) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._prefixes: dict[str, dict[str, Handler]] = {}
        for (method, path), handler in routes.items():
            is_prefix = path.endswith("/*")
            table = self._prefixes if is_prefix else self._exact
            table.setdefault(path[:-1] if is_prefix else path, {})[method] = handler

    def find(self, method: str, path: str) -> Handler | HttpResponse:
        """The handler, or the answer where there is none."""
        methods = self._exact.get(path) or self._longest_prefix(path)
        if not methods:
            return json_error(404, f"there is nothing at {path!r}.", code="not_found")
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is not None:
            return handler
        allowed = ", ".join(sorted(methods))
        return json_error(
            405,
            f"{path!r} takes {allowed}, not {method}.",
            code="method_not_allowed",
            headers={"allow": allowed},
        )

    def _longest_prefix(self, path: str) -> dict[str, Handler]:
        found = max((prefix for prefix in self._prefixes if path.startswith(prefix)), key=len, default=None)
        return self._prefixes[found] if found is not None else {}


class _StalledError(Exception):
    """The client reads nothing."""


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: ServerSettings) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._settings = settings
        self._has_begun = False

    async def refuse(self, response: HttpResponse) -> None:
        """Answer without reading the body, which ends the connection if there is one."""
        has_body = "content-length" in headers_of(self._scope) or self._scope["method"] not in ("GET", "HEAD")
        await self._answer(response, closing=has_body)

    async def run(self, handler: Handler, path: str, headers: Mapping[str, str]) -> None:
        """Read the body, call the handler, send what it gives; stop when the client goes away."""
        body = await self._body(headers)
        if body is None:
            return
        if isinstance(body, HttpResponse):
            await self._answer(body, closing=True)
            return
        method = self._scope["method"]
        request = HttpRequest(
            method=method, path=path, query=query_of(self._scope), headers=headers, body=body
        )
        work = asyncio.create_task(self._work(handler, request))
        gone = asyncio.create_task(self._until_gone())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _work(self, handler: Handler, request: HttpRequest) -> None:
        try:
            response = await handler(request)
            await self._answer(response)
        except DcModelError as error:
            await self._fail(error_answer(error))
        except _StalledError:
            logger.warning(
                "a client read nothing for %g seconds and was cut off.", self._settings.stall_seconds
            )
            self._abort()
        except CutError as cut:
            if self._abort(reset=cut.reset):
                await asyncio.Event().wait()  # until the connection is lost, which cancels this
        except Exception:
            logger.exception("the route %s failed.", request.path)
            await self._fail(json_error(500, "the server failed; its log says why.", code="internal_error"))

    async def _fail(self, response: HttpResponse) -> None:
        if self._has_begun:
            self._abort()  # a body that is cut off must not look whole
        else:
            await self._answer(response)

    async def _body(self, headers: Mapping[str, str]) -> bytes | HttpResponse | None:
        """The whole body, the answer to one that is too large or slow, or None if the client is gone."""
        limit = self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit * DISCARDED:
            return _too_large(limit)
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                return await self._parts(limit)
        except TimeoutError:
            message = f"the body did not arrive within {self._settings.body_seconds:g} seconds."
            return json_error(408, message, code="request_timeout")

    async def _parts(self, limit: int) -> bytes | HttpResponse | None:
        parts: list[bytes] = []
        size = 0
        is_whole = False
        while not is_whole and size <= limit * DISCARDED:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                return None
            part = event.get("body", b"")
            size += len(part)
            if size > limit:
                parts.clear()  # the rest is read: whoever is still sending would not see the answer
            else:
                parts.append(part)
            is_whole = not event.get("more_body", False)
        return b"".join(parts) if size <= limit else _too_large(limit)

    async def _answer(self, response: HttpResponse, *, closing: bool = False) -> None:
        headers = raw_headers(response)
        if closing:
            headers.append((b"connection", b"close"))
        if (origin := headers_of(self._scope).get("origin")) is not None and response.status != 403:
            headers += [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")]
        body = response.body
        self._has_begun = True
        start = {"type": "http.response.start", "status": response.status, "headers": headers}
        if isinstance(body, bytes):
            await self._put(start)
            await self._put({"type": "http.response.body", "body": body})
            return
        await self._stream(start, body)

    async def _stream(self, start: dict[str, object], parts: AsyncIterator[bytes]) -> None:
        try:
            await self._put(start)
            async for part in parts:
                await self._put({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            close = getattr(parts, "aclose", None)
            if close is not None:
                await close()
        await self._put({"type": "http.response.body", "body": b""})

    async def _put(self, event: dict[str, object]) -> None:
        """Raises `_StalledError` where the client reads nothing for too long."""
        try:
            async with asyncio.timeout(self._settings.stall_seconds):
                await self._send(event)
        except TimeoutError as error:
            raise _StalledError from error

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _abort(self, *, reset: bool = False) -> bool:
        """Whether the server under it can."""
        abort = self._scope.get("state", {}).get(ABORT)
        if abort is not None:
            abort(reset=reset)
        return abort is not None


def _too_large(limit: int) -> HttpResponse:
    return json_error(413, f"the body is larger than {limit} bytes.", code="body_too_large")
