"""Connections to a model in a child process, which all in this program who want the same model share."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dcmodel.errors import ConnectionLostError
from lmql_backends.lmtp.clients.child_process import ChildProcess
from lmql_backends.lmtp.clients.child_spec import MAX_FRAME_BYTES, ChildSpec
from lmql_backends.lmtp.clients.frames import frames_of
from lmql_backends.lmtp.clients.framing import FrameProtocol
from lmql_backends.lmtp.clients.transport import Connector, Receiver, Transport
from lmql_backends.lmtp.protocol.codec import MSGPACK
from lmql_backends.lmtp.protocol.messages import ClientMessage
from lmql_backends.lmtp.retry import RetryPolicy

NO_RETRY = RetryPolicy(seconds=0.0)
"""What runs when the child dies fails with `ConnectionLostError`: it may be what kills it. The next request
starts a new child."""
MAX_CRASHES = 3
CRASH_SECONDS = 60.0
"""A child that ends so often within so long is not started again before that time has passed."""


@dataclass(eq=False)
class _Shared:
    """One model's child, and how many connectors use it."""

    spec: ChildSpec
    users: int = 0
    child: ChildProcess | None = None
    crashes: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_CRASHES))
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def running(self, clock: Callable[[], float]) -> ChildProcess:
        """The child, started if there is none. Raises what loading raises, and `ConnectionLostError` where it
        crashed too often."""
        async with self.lock:
            if self.child is not None and not self.child.is_alive:
                await self.end()
                self.crashes.append(clock())
            if self.child is None:
                self._check_crashes(clock())
                self.child = await ChildProcess.start(self.spec)
            return self.child

    async def end(self) -> None:
        child, self.child = self.child, None
        if child is not None:
            await child.aclose()

    def _check_crashes(self, now: float) -> None:
        if len(self.crashes) == MAX_CRASHES and now - self.crashes[0] < CRASH_SECONDS:
            left = CRASH_SECONDS - (now - self.crashes[0])
            raise ConnectionLostError(
                f"the process of the model {self.spec.model!r} ended {MAX_CRASHES} times within "
                f"{CRASH_SECONDS:g} seconds and is not started again yet.",
                remedy="Look at what it wrote before it ended.",
                retry_after=left,
            )


class _Children:
    """Those of this process, by event loop and by what they load."""

    def __init__(self) -> None:
        self._shared: dict[tuple[asyncio.AbstractEventLoop, bytes], _Shared] = {}
        self._is_watching_forks = False

    def enter(self, loop: asyncio.AbstractEventLoop, spec: ChildSpec) -> _Shared:
        if not self._is_watching_forks:
            os.register_at_fork(after_in_child=self._forget)
            self._is_watching_forks = True
        shared = self._shared.setdefault((loop, spec.to_bytes()), _Shared(spec))
        shared.users += 1
        return shared

    async def leave(self, loop: asyncio.AbstractEventLoop, shared: _Shared) -> None:
        """The child ends with its last user."""
        shared.users -= 1
        if not shared.users:
            self._shared.pop((loop, shared.spec.to_bytes()), None)
            async with shared.lock:
                await shared.end()

    def _forget(self) -> None:
        for shared in self._shared.values():
            if shared.child is not None:
                shared.child.forget()
        self._shared.clear()


_CHILDREN = _Children()


class ProcessConnector(Connector):
    """Connects to the child of a spec, which is started when it is first needed."""

    def __init__(self, spec: ChildSpec, *, clock: Callable[[], float] = time.monotonic) -> None:
        spec.to_bytes()  # what cannot be sent is refused at once
        self.name = f"the process of {spec.model!r}"
        self._spec = spec
        self._clock = clock
        self._shared: _Shared | None = None

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        child = self._shared.child if self._shared is not None else None
        return child.pid if child is not None and child.is_alive else None

    async def connect(self, receiver: Receiver) -> Transport:
        if self._shared is None:
            self._shared = _CHILDREN.enter(asyncio.get_running_loop(), self._spec)
        child = await self._shared.running(self._clock)
        transport = ProcessTransport(child, receiver)
        await transport.open()
        return transport

    async def aclose(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            await _CHILDREN.leave(asyncio.get_running_loop(), shared)


class ProcessTransport(Transport):
    """One socket to the child."""

    def __init__(self, child: ChildProcess, receiver: Receiver) -> None:
        self._child = child
        self._receiver: Receiver | None = receiver
        self._protocol = FrameProtocol(self._on_frame, self._on_end)
        self._ended = asyncio.Event()
        self._telling: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises `ConnectionLostError`."""
        sock = self._child.connect()
        await asyncio.get_running_loop().create_connection(lambda: self._protocol, sock=sock)

    def send(self, messages: Sequence[ClientMessage]) -> None:
        frames, refused = frames_of(MSGPACK, messages, MAX_FRAME_BYTES)
        for frame in frames:
            assert isinstance(frame, bytes)
            self._protocol.send(frame)
        if refused and self._receiver is not None:
            asyncio.get_running_loop().call_soon(self._receiver.on_messages, refused)

    async def aclose(self) -> None:
        self._receiver = None
        self._protocol.close()
        await self._ended.wait()
        if self._telling is not None and self._telling is not asyncio.current_task():
            await asyncio.wait([self._telling])

    def _on_frame(self, frame: bytes) -> None:
        if self._receiver is not None:
            self._receiver.on_messages(MSGPACK.decode_server(frame).messages)

    def _on_end(self) -> None:
        self._ended.set()
        if self._receiver is not None:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        error = await self._child.death()
        if self._receiver is not None:
            self._receiver.on_lost(error)
