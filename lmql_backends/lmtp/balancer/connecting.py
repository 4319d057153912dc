"""How a pool reaches its workers: `LMTPDcModel` over any connector, and what its connection tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dcmodel.errors import ConnectionLostError, DcModelError
from dcmodel.model import DcModel
from lmql_backends.lmtp.balancer.pool import Connect
from lmql_backends.lmtp.balancer.worker import Membership
from lmql_backends.lmtp.clients.transport import Connector, Receiver, Transport
from lmql_backends.lmtp.model import LMTPDcModel
from lmql_backends.lmtp.protocol.messages import Describe, Described, GoAway, ServerMessage
from lmql_backends.lmtp.retry import RetryPolicy

AT_ONCE = RetryPolicy(seconds=0.0)
"""The pool tries again, and elsewhere; a connection only says that it is lost."""


class WorkerModel(LMTPDcModel):
    """A worker's model; nothing is tried again here."""

    _first: Described | None = None

    async def probe(self) -> None:
        """Ask the worker what it serves. Raises `ConnectionLostError` where nobody is there, or where
        somebody else has taken its place."""
        found = await self._client.ask(lambda id_: Describe(id=id_, model=self._name), Described)
        found.id, found.adapters = 0, []  # those may change
        self._first = self._first or found
        if found != self._first:
            raise ConnectionLostError(f"{self._client.name} serves something else now.")


async def probe(model: DcModel) -> None:
    """Whether a worker lives."""
    assert isinstance(model, WorkerModel)
    await model.probe()


def connect_by(connector_of: Callable[[str], Connector], name: str = "") -> Connect:
    """Connect to addresses by what `connector_of` makes of them. `name`: what the workers call the model."""

    async def connect(address: str, membership: Membership) -> DcModel:
        watched = WatchedConnector(connector_of(address), membership)
        model = await WorkerModel.open(watched, name, loop=asyncio.get_running_loop(), retry=AT_ONCE)
        try:
            await model.probe()
        except BaseException:
            await model.aclose()
            raise
        return model

    return connect


class WatchedConnector(Connector):
    """A connector whose connections are watched by a membership, too."""

    def __init__(self, connector: Connector, membership: Membership) -> None:
        self.name = connector.name
        self._connector = connector
        self._membership = membership

    async def connect(self, receiver: Receiver) -> Transport:
        return await self._connector.connect(_Watched(receiver, self._membership))

    async def aclose(self) -> None:
        await self._connector.aclose()


class _Watched(Receiver):
    def __init__(self, receiver: Receiver, membership: Membership) -> None:
        self._receiver = receiver
        self._membership = membership

    def on_messages(self, messages: Sequence[ServerMessage]) -> None:
        for message in messages:
            if type(message) is GoAway:
                self._membership.ending()
        self._receiver.on_messages(messages)

    def on_lost(self, error: DcModelError) -> None:
        self._membership.lost()
        self._receiver.on_lost(error)
