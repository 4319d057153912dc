"""`Connector` and `Transport`: what carries frames, and nothing else. Both live in one event loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from dcmodel.errors import DcModelError
from lmql_backends.lmtp.protocol.messages import ClientMessage, ServerMessage


class Receiver(Protocol):
    """Who hears what a transport brings; called in its loop, never from inside `Transport.send`."""

    def on_messages(self, messages: Sequence[ServerMessage]) -> None:
        """One frame."""

    def on_lost(self, error: DcModelError) -> None:
        """The connection is gone and will bring nothing more; called once, but not after `aclose`."""


class Transport(ABC):
    """One open connection."""

    @abstractmethod
    def send(self, messages: Sequence[ClientMessage]) -> None:
        """Send one frame, soon and in order; never blocks. What can no longer be sent is dropped: `on_lost`
        tells of it. A message that is too large is answered by a `Failed` of the transport's own."""

    @abstractmethod
    async def aclose(self) -> None:
        """Send what is waiting, as far as it goes at once, and close. May be called twice."""


class Connector(ABC):
    """Opens connections to one server, again and again."""

    name: str
    """The server, as messages call it."""

    @abstractmethod
    async def connect(self, receiver: Receiver) -> Transport:
        """A new connection.

        Raises `ConnectionLostError` or `OverloadedError` where another try can help, and what is permanent:
        `UnauthorizedError`, `ModelNotFoundError`, `ModelLoadError` and other errors of set-up.
        """

    async def aclose(self) -> None:
        """Release what the connections share, after the last of them was closed."""
        return
