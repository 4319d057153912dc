"""The ingress's end of a connection to one engine replica. Knows nothing of Ray: `EngineCalls` does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextvars import Context
from typing import Protocol
from uuid import uuid4

from dcmodel.errors import ConnectionLostError, DcModelError
from lmql_backends.lmtp.clients.frames import frames_of
from lmql_backends.lmtp.clients.transport import Connector, Receiver, Transport
from lmql_backends.lmtp.protocol.codec import MSGPACK
from lmql_backends.lmtp.protocol.messages import ClientMessage, ServerMessage
from lmql_backends.ray_serve.channel import MAX_FRAME_BYTES

logger = logging.getLogger(__name__)


class EngineCalls(Protocol):
    """How replicas are called (`EngineDesk` has the other ends). Both raise `ConnectionLostError` where the
    replica is not there, or goes away meanwhile."""

    def converse(self, replica: str, channel: str, revision: str) -> AsyncGenerator[str | list[bytes]]:
        """What the replica sends on a channel: first an empty text, or why there is none; then items.
        Closing it closes the channel."""

    async def send(self, replica: str, channel: str, index: int, frame: bytes) -> bool:
        """Frame number `index` on it, from 0; returns when what it began has ended. False: there is no such
        channel."""


class ReplicaConnector(Connector):
    """Connects to one replica."""

    def __init__(self, calls: EngineCalls, replica: str, revision: str) -> None:
        """`revision`: what the replica must serve (`AppArguments.revision`)."""
        self.name = f"replica {replica}"
        self._calls = calls
        self._replica = replica
        self._revision = revision

    async def connect(self, receiver: Receiver) -> Transport:
        transport = _ReplicaTransport(self.name, self._calls, self._replica, receiver)
        try:
            await transport.open(self._revision)
        except BaseException:
            await transport.aclose()
            raise
        return transport


class _ReplicaTransport(Transport):
    """A task that reads, and one for each frame, which lasts as long as what the frame began.

    Every call is made in a context of its own: calls that descend from one request of Serve's share its
    number, by which routers tell calls apart.
    """

    def __init__(self, name: str, calls: EngineCalls, replica: str, receiver: Receiver) -> None:
        self._name = name
        self._calls = calls
        self._replica = replica
        self._channel = uuid4().hex
        self._receiver: Receiver | None = receiver
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent = 0

    async def open(self, revision: str) -> None:
        """Raises `ConnectionLostError` where there is no replica, or another one."""
        self._start(self._read(revision))
        await self._opened

    def send(self, messages: Sequence[ClientMessage]) -> None:
        frames, refused = frames_of(MSGPACK, messages, MAX_FRAME_BYTES)
        if refused:
            self._loop.call_soon(self._deliver, refused)
        for frame in frames:
            assert isinstance(frame, bytes)
            self._start(self._send(self._sent, frame))
            self._sent += 1

    async def aclose(self) -> None:
        self._receiver = None
        if not self._opened.done():
            self._opened.cancel()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- inside ------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a defect of ours must not leave anybody waiting
            logger.error("the connection to %s failed", self._name, exc_info=error)
            self._lost(ConnectionLostError(f"the connection to {self._name} failed: {error!r}."))

    async def _read(self, revision: str) -> None:
        why = "it has ended"
        stream = self._calls.converse(self._replica, self._channel, revision)
        try:
            async for item in stream:
                if not isinstance(item, str):
                    self._read_item(item)
                elif item:
                    why = item
                elif not self._opened.done():
                    self._opened.set_result(None)
        except ConnectionLostError as error:
            why = error.message
        finally:
            await stream.aclose()
        self._lost(ConnectionLostError(f"the connection to {self._name} is gone: {why}"))

    async def _send(self, index: int, frame: bytes) -> None:
        try:
            if not await self._calls.send(self._replica, self._channel, index, frame):
                self._lost(ConnectionLostError(f"{self._name} has closed the connection."))
        except ConnectionLostError as error:
            self._lost(error)

    def _read_item(self, item: list[bytes]) -> None:
        for frame in item:
            messages, bad = MSGPACK.decode_server(frame)
            for complaint in bad:
                logger.warning("%s sent what cannot be read: %s", self._name, complaint.message)
            self._deliver(messages)

    def _deliver(self, messages: Sequence[ServerMessage]) -> None:
        if self._receiver is not None:
            self._receiver.on_messages(messages)

    def _lost(self, error: DcModelError) -> None:
        if not self._opened.done():
            self._opened.set_exception(error)
            return
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.on_lost(error)
