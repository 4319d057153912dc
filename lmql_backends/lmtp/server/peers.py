"""What is spoken on a websocket: each protocol in frames."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import ClassVar

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.protocol.codec import CODECS, Codec
from lmql_backends.lmtp.protocol.messages import Failed, ServerMessage
from lmql_backends.lmtp.server.connection import ServerConnection
from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.lmtp.server.legacy import LegacyConnection
from lmql_backends.lmtp.server.limits import ConnectionLimits

Frame = str | bytes


class Peer(ABC):
    """One protocol on one connection."""

    can_pause: ClassVar[bool] = True

    @abstractmethod
    def receive(self, frame: Frame) -> None:
        """A frame came. Raises nothing."""

    @abstractmethod
    def pause(self) -> None:
        """The client reads slowly: streams wait, where the protocol can."""

    @abstractmethod
    def resume(self) -> None:
        """It has caught up."""

    @abstractmethod
    def refuse_new(self, reason: str) -> None:
        """What runs goes on."""

    @abstractmethod
    async def wait_idle(self) -> None:
        """Until nothing runs."""

    @abstractmethod
    async def aclose(self) -> None:
        """Cancel everything."""


Speak = Callable[[Callable[[Frame], None]], Peer]
"""Begin to speak, with this function to send frames by."""


class MessagePeer(Peer):
    """Version 2, in one of the two forms of frames."""

    def __init__(
        self, codec: Codec, models: Models, limits: ConnectionLimits, send: Callable[[Frame], None]
    ) -> None:
        self._codec = codec
        self._send = send
        self._connection = ServerConnection(models, self._send_messages, limits)

    @property
    def tasks(self) -> Set[asyncio.Task[None]]:
        """What runs now: streams and questions until their end, sessions during their steps."""
        return self._connection.tasks

    def receive(self, frame: Frame) -> None:
        messages, bad = self._codec.decode_client(frame)
        self._connection.receive(messages, bad)

    def pause(self) -> None:
        self._connection.pause()

    def resume(self) -> None:
        self._connection.resume()

    def refuse_new(self, reason: str) -> None:
        self._connection.refuse_new(reason)

    async def wait_idle(self) -> None:
        await self._connection.wait_idle()

    async def aclose(self) -> None:
        await self._connection.aclose()

    def _send_messages(self, messages: Sequence[ServerMessage]) -> None:
        try:
            self._send(self._codec.encode(messages))
        except InvalidRequestError:
            for message in messages:  # one of them has no form; the others are not to be lost with it
                self._send(self._encoded_alone(message))

    def _encoded_alone(self, message: ServerMessage) -> Frame:
        try:
            return self._codec.encode([message])
        except InvalidRequestError as error:
            return self._codec.encode(
                [Failed(id=getattr(message, "id", 0), code="generation", message=ascii(error.message))]
            )


class LegacyPeer(Peer):
    """Version 1, LMQL's text frames. It knows no pause."""

    can_pause = False

    def __init__(self, models: Models, limits: ConnectionLimits, send: Callable[[Frame], None]) -> None:
        self._connection = LegacyConnection(models, send, max_streams=limits.max_streams)

    def receive(self, frame: Frame) -> None:
        if isinstance(frame, bytes):
            frame = frame.decode("utf-8", "replace")
        self._connection.receive(frame)

    def pause(self) -> None:
        """Nothing to pause."""

    def resume(self) -> None:
        """Nothing was paused."""

    def refuse_new(self, reason: str) -> None:
        self._connection.refuse_new(reason)

    async def wait_idle(self) -> None:
        await self._connection.wait_idle()

    async def aclose(self) -> None:
        await self._connection.aclose()


def protocols(models: Models, limits: ConnectionLimits) -> Mapping[str | None, Speak]:
    """By subprotocol; None where a client names none."""
    found: dict[str | None, Speak] = {
        name: partial(MessagePeer, codec, models, limits) for name, codec in CODECS.items()
    }
    found[None] = partial(LegacyPeer, models, limits)
    return found
