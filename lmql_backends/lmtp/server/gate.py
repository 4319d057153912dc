"""Who may come in: the bearer token, and the Host and Origin headers, before anything is read or upgraded."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping

from lmql_backends.lmtp.server.answers import json_error
from lmql_backends.lmtp.server.contracts import HttpResponse
from lmql_backends.lmtp.server.settings import ServerSettings

OPEN_PATHS = frozenset({"/health"})
"""The only ones that need no token."""


class Gate:
    """Judges headers. Without a Host check, a web page could reach a server on its visitor's machine under a
    name that it lets point there; without an Origin check, under its address."""

    def __init__(self, settings: ServerSettings, *, is_public: bool) -> None:
        """`is_public`: it listens beyond this machine, under names that it cannot know."""
        self._token = settings.token.encode() if settings.token is not None else None
        self._hosts = frozenset(name.lower() for name in settings.allowed_hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in settings.allowed_origins)
        # A page cannot guess the token, so that names do not matter.
        self._any_host = is_public and self._token is not None and not self._hosts

    def refusal(self, path: str, headers: Mapping[str, str]) -> HttpResponse | None:
        """The answer to what may not come in."""
        host = headers.get("host", "")
        if not self._is_host(host):
            return json_error(
                403,
                f"this server is not addressed as {_host_name(host)!r}.",
                code="bad_host",
                remedy="Use its address or localhost, or start it with --allow-host NAME.",
            )
        origin = headers.get("origin")
        if origin is not None and not self.is_origin(origin, host):
            return json_error(
                403,
                f"pages of {origin!r} may not use this server.",
                code="bad_origin",
                remedy="Start it with --allow-origin ORIGIN.",
            )
        if self._token is not None and path not in OPEN_PATHS and not self._is_token(headers):
            return json_error(
                401,
                "the token is missing or wrong.",
                code="unauthorized",
                remedy="Send the header Authorization: Bearer TOKEN.",
                headers={"www-authenticate": 'Bearer realm="dcmodel"'},
            )
        return None

    def is_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may use the server: it is listed, or the server's own."""
        origin = origin.lower()
        if "*" in self._origins or origin in self._origins:
            return True
        scheme, _, rest = origin.partition("://")
        return scheme in ("http", "https") and bool(rest) and rest == host.lower()

    def _is_token(self, headers: Mapping[str, str]) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        assert self._token is not None
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._token)

    def _is_host(self, host: str) -> bool:
        if self._any_host:
            return True
        name = _host_name(host)
        if name == "localhost" or name in self._hosts or "*" in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _host_name(host: str) -> str:
    """Without the port, and without the brackets of an IPv6 address."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")
