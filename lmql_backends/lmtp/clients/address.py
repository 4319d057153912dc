"""Addresses of servers: ``lmtp://host:port/model``, ``lmtps://`` over TLS."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from dcmodel.errors import InvalidRequestError

DEFAULT_PORT = 8080
SCHEMES = {"lmtp": False, "lmtps": True}
FORM = "lmtp://HOST:PORT, lmtp://HOST:PORT/MODEL, or lmtps:// for TLS"


@dataclass(frozen=True, slots=True)
class Address:
    """One server, and perhaps one of its models."""

    host: str
    port: int
    model: str = ""
    """Empty: the server's first one."""
    is_secure: bool = False

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises `InvalidRequestError` that says what is wrong."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise _bad(text, str(error)) from None
        if parts.scheme not in SCHEMES:
            raise _bad(text, f"the scheme is {parts.scheme!r}")
        if not parts.hostname:
            raise _bad(text, "there is no host")
        if parts.username is not None:
            raise InvalidRequestError(
                f"the address of {parts.hostname!r} holds a user's name or a password.",
                remedy='Give the token by itself: extra={"token": ...} or DCMODEL_TOKEN.',
            )
        if parts.query or parts.fragment:
            raise _bad(text, "there is something behind ? or #")
        return cls(
            host=parts.hostname,
            port=DEFAULT_PORT if port is None else port,
            model=unquote(parts.path.strip("/")),
            is_secure=SCHEMES[parts.scheme],
        )

    @property
    def uri(self) -> str:
        """For a websocket."""
        return f"{'wss' if self.is_secure else 'ws'}://{self._place}/lmtp"

    def __str__(self) -> str:
        scheme = "lmtps" if self.is_secure else "lmtp"
        return f"{scheme}://{self._place}" + (f"/{quote(self.model)}" if self.model else "")

    @property
    def _place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def _bad(text: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"{text!r:.200} is no address of a server: {why}.", remedy=f"Write {FORM}.")
