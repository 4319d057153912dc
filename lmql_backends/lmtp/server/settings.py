"""How a server guards itself: who may come in, and how much anybody may cost."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.server.limits import ConnectionLimits

MIN_TOKEN_LENGTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Safe defaults; sizes in bytes, times in seconds."""

    token: str | None = None
    """What clients must send as ``Authorization: Bearer TOKEN``; None: nothing."""
    insecure: bool = False
    """Other machines may come in without a token."""
    allowed_hosts: tuple[str, ...] = ()
    """Names, besides addresses and ``localhost``, under which clients may address the server."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages (``https://app.example``) that may use the server; ``*``: all."""
    max_body_bytes: int = 16 << 20
    """Of one HTTP request."""
    max_header_bytes: int = 32 << 10
    """Request line and headers together."""
    max_connections: int = 1024
    max_requests: int = 1024
    """HTTP requests that run at a time."""
    max_queued_bytes: int = 1 << 20
    """Of one websocket: what waits for a client that reads slowly, before its streams pause."""
    handshake_seconds: float = 10.0
    """From the connection, or the first byte of a further request, to the end of its headers."""
    body_seconds: float = 30.0
    """For the whole body of a request."""
    stall_seconds: float = 60.0
    """How long a client may read nothing while something waits for it."""
    ping_seconds: float = 20.0
    """Websockets: from ping to ping, and how long its answer may take."""
    keep_alive_seconds: int = 5
    """How long an HTTP connection may be idle."""
    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    """Of one websocket."""

    def __post_init__(self) -> None:
        if self.token is not None and not is_token(self.token):
            raise InvalidRequestError(
                f"the token must have at least {MIN_TOKEN_LENGTH} printable ASCII characters and no blanks.",
                remedy="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            )

    def check_exposure(self, host: str) -> None:
        """Raises `InvalidRequestError` where other machines could use the server without a token."""
        if self.token is None and not self.insecure and not is_loopback(host):
            raise InvalidRequestError(
                f"host {host!r} lets other machines use the server, and there is no token.",
                remedy="Give a token (--token-file FILE, or DCMODEL_TOKEN), or --insecure if all who can "
                "reach it may use it.",
            )


def is_token(token: str) -> bool:
    return len(token) >= MIN_TOKEN_LENGTH and all("!" <= character <= "~" for character in token)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
