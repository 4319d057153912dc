"""The server's connection in this very process: messages are handed over as they are, nothing is encoded."""

from __future__ import annotations

from collections.abc import Sequence

from lmql_backends.lmtp.clients.transport import Connector, Receiver, Transport
from lmql_backends.lmtp.protocol.messages import ClientMessage, ServerMessage
from lmql_backends.lmtp.server.connection import ServerConnection
from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.lmtp.server.limits import ConnectionLimits


class InProcessConnector(Connector):
    """Connects to models of this process; everything runs in the client's event loop."""

    def __init__(self, models: Models, limits: ConnectionLimits | None = None) -> None:
        """`models` must allow to be used in the client's loop; whoever made them closes them."""
        self.name = "this process"
        self._models = models
        self._limits = limits or ConnectionLimits(mount_from=None)

    async def connect(self, receiver: Receiver) -> Transport:
        return _InProcessTransport(self._models, self._limits, receiver)


class _InProcessTransport(Transport):
    def __init__(self, models: Models, limits: ConnectionLimits, receiver: Receiver) -> None:
        self._receiver: Receiver | None = receiver
        self._connection = ServerConnection(models, self._deliver, limits)

    def send(self, messages: Sequence[ClientMessage]) -> None:
        if self._receiver is not None:
            self._connection.receive(messages)

    async def aclose(self) -> None:
        self._receiver = None
        await self._connection.aclose()

    def _deliver(self, messages: list[ServerMessage]) -> None:
        if self._receiver is not None:
            self._receiver.on_messages(messages)
