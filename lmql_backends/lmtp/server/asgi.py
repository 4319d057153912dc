"""ASGI's types, as far as the server uses them, and what a scope says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from lmql_backends.lmtp.server.contracts import HttpResponse

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

ABORT = "dcmodel.abort"
"""In ``scope["state"]``, under our own server: cuts the connection, whatever has not been sent; called with
``reset=True``, by RST."""

RawHeaders = list[tuple[bytes, bytes]]


def path_of(scope: Scope) -> str:
    """Within this application, which may be mounted below a path of another."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root.rstrip("/")) or "/"


def headers_of(scope: Scope) -> dict[str, str]:
    """Names in small letters; what comes twice is joined."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def query_of(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))


def raw_headers(response: HttpResponse) -> RawHeaders:
    """Of the answer, its length included where that is known."""
    headers = {"content-type": response.content_type, **response.headers}
    if isinstance(response.body, bytes):
        headers["content-length"] = str(len(response.body))
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def client_of(scope: Scope) -> str:
    """For logs."""
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "?"
