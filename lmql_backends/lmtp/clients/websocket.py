"""Connections to a server over a websocket."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dcmodel.errors import (
    ConnectionLostError,
    DcModelError,
    MissingDependencyError,
    OverloadedError,
    SetupError,
    UnauthorizedError,
)
from lmql_backends.lmtp.clients.address import Address
from lmql_backends.lmtp.clients.frames import frames_of
from lmql_backends.lmtp.clients.transport import Connector, Receiver, Transport
from lmql_backends.lmtp.protocol.codec import MSGPACK, Codec
from lmql_backends.lmtp.protocol.messages import ClientMessage, Welcome
from lmql_backends.lmtp.server.settings import is_loopback

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection
    from websockets.http11 import Response

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
PING_SECONDS = 20.0
"""From ping to ping, and how long its answer may take: then the server counts as gone."""
CLOSE_SECONDS = 2.0
MAX_FIRST_FRAME = 1 << 16


class WebSocketConnector(Connector):
    """Opens websockets to one address."""

    def __init__(
        self,
        address: Address,
        *,
        token: str | None = None,
        codec: Codec = MSGPACK,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls`: for ``lmtps://``; by default the system's certificates are trusted.

        Raises `MissingDependencyError` without the package `websockets`.
        """
        _import_websockets()
        self.name = str(address)
        self._address = address
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._codec = codec
        self._tls = (tls or ssl.create_default_context()) if address.is_secure else None

    async def connect(self, receiver: Receiver) -> Transport:
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake, InvalidStatus
        from websockets.typing import Subprotocol

        try:
            socket = await connect(
                self._address.uri,
                subprotocols=[Subprotocol(self._codec.subprotocol)],
                additional_headers=self._headers,
                compression=None,
                max_size=None,
                ssl=self._tls,
                proxy=None if is_loopback(self._address.host) else True,
                open_timeout=CONNECT_SECONDS,
                ping_interval=PING_SECONDS,
                ping_timeout=PING_SECONDS,
                close_timeout=CLOSE_SECONDS,
            )
        except InvalidStatus as error:
            raise self._refused(error.response) from error
        except InvalidHandshake as error:
            if isinstance(error.__cause__, OSError | EOFError):  # cut in the middle of it
                raise self._unreachable(error.__cause__) from error
            raise SetupError(
                f"{self.name} does not answer as a server of ours does: {error}.",
                remedy="Check host and port; start one with `dcmodel serve`.",
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise SetupError(
                f"the certificate of {self.name} is not trusted: {error.verify_message}.",
                remedy='Name its authority: extra={"ca_file": ...}.',
            ) from error
        except (OSError, EOFError, TimeoutError) as error:
            raise self._unreachable(error) from error
        if socket.subprotocol != self._codec.subprotocol:
            await socket.close()
            raise SetupError(
                f"{self.name} speaks another version of LMTP.",
                remedy="Install the same dcmodel on both sides.",
            )
        return WebSocketTransport(self.name, socket, self._codec, receiver)

    def _unreachable(self, error: BaseException) -> DcModelError:
        why = str(error).rstrip(".") or type(error).__name__
        return ConnectionLostError(
            f"{self.name} cannot be reached: {why}.",
            remedy="Check that the server runs; start one with `dcmodel serve`.",
        )

    def _refused(self, response: Response) -> DcModelError:
        status, why = response.status_code, _reason(response.body)
        said = f"{self.name} answered {status}" + (f": {why}" if why else ".")
        if status in (401, 403):
            return UnauthorizedError(said, remedy='Give its token: extra={"token": ...} or DCMODEL_TOKEN.')
        if status in (408, 429) or status >= 500:
            wait = response.headers.get("Retry-After", "")
            return OverloadedError(
                said, remedy="Try again later.", retry_after=float(wait) if wait.isdigit() else None
            )
        return SetupError(said, remedy="Check host and port; start one with `dcmodel serve`.")


class WebSocketTransport(Transport):
    """A reader and a writer, each a task of this object."""

    def __init__(self, name: str, socket: ClientConnection, codec: Codec, receiver: Receiver) -> None:
        self._name = name
        self._socket = socket
        self._codec = codec
        self._receiver = receiver
        self._max_bytes = MAX_FIRST_FRAME
        """What the server takes; it says so when it greets."""
        self._outbox: list[str | bytes] = []
        self._news = asyncio.Event()
        self._is_closed = False
        self._reader = asyncio.create_task(self._read(), name="lmtp-reader")
        self._writer = asyncio.create_task(self._write(), name="lmtp-writer")

    def send(self, messages: Sequence[ClientMessage]) -> None:
        frames, refused = frames_of(self._codec, messages, self._max_bytes)
        self._outbox += frames
        self._news.set()
        if refused:
            asyncio.get_running_loop().call_soon(self._receiver.on_messages, refused)

    async def aclose(self) -> None:
        self._is_closed = True
        tasks = [task for task in (self._reader, self._writer) if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._socket.close()

    async def _read(self) -> None:
        from websockets.exceptions import ConnectionClosed

        why = "it was closed"
        try:
            while True:
                frame = await self._socket.recv()
                messages, bad = self._codec.decode_server(frame)
                for complaint in bad:
                    logger.warning("%s sent what cannot be read: %s", self._name, complaint.message)
                for message in messages:
                    if isinstance(message, Welcome):
                        self._max_bytes = message.max_frame_bytes
                self._receiver.on_messages(messages)
        except ConnectionClosed as error:
            why = str(error).rstrip(".")
        except Exception as error:  # a defect of ours must not leave anybody waiting
            logger.exception("reading from %s failed", self._name)
            why = repr(error)
        if not self._is_closed:
            self._writer.cancel()
            self._receiver.on_lost(
                ConnectionLostError(f"the connection to {self._name} is gone: {why}.", remedy="Try again.")
            )

    async def _write(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                await self._news.wait()
                self._news.clear()
                frames, self._outbox = self._outbox, []
                for frame in frames:
                    await self._socket.send(frame)
        except ConnectionClosed:
            return  # the reader tells


def _import_websockets() -> None:
    try:
        import websockets.asyncio.client  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "a connection to a server needs the package websockets.",
            remedy='Run: pip install "dcmodel[lmtp]"',
        ) from error


def _reason(body: bytes | bytearray | None) -> str:
    """What the server's JSON answer says."""
    try:
        error = json.loads(body or b"")["error"]
        return str(error["message"])[:300]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
