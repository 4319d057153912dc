"""The child process of `process.py`: loads one model and serves it on the sockets that its parent hands in.

Run as ``python -m lmql_backends.lmtp.clients.child FD``. On the control socket `FD` comes what to load, then
a socket for each connection; its end is the end of the process, whatever it does: none outlives its parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module

from dcmodel.env import Settings
from dcmodel.errors import DcModelError, ModelLoadError
from dcmodel.model import DcModel
from dcmodel.registry import Registry
from dcmodel.threads import wait_patiently
from lmql_backends.lmtp.clients.child_spec import LOADED, MAX_FRAME_BYTES, ChildSpec
from lmql_backends.lmtp.clients.framing import FrameProtocol, receive_frame, send_frame
from lmql_backends.lmtp.protocol import errors
from lmql_backends.lmtp.protocol.codec import MSGPACK
from lmql_backends.lmtp.protocol.messages import ServerMessage
from lmql_backends.lmtp.server.connection import ServerConnection
from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.models import StaticModels

OWN_BACKEND = "process"


def main() -> None:
    """Until the control socket ends."""
    wait_patiently()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    control = socket.socket(fileno=int(sys.argv[1]))
    asyncio.run(_serve(control))


async def _serve(control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    spec = ChildSpec.from_bytes(receive_frame(control))
    arrivals: asyncio.Queue[socket.socket] = asyncio.Queue()
    # A thread, because loading may hold the loop for minutes.
    watch = partial(_watch, control, lambda sock: loop.call_soon_threadsafe(arrivals.put_nowait, sock))
    threading.Thread(target=watch, name="dcmodel-parent", daemon=True).start()
    try:
        models = await asyncio.to_thread(load_models, spec)
    except DcModelError as error:
        send_frame(control, _encoded(error))
        return
    except Exception as error:  # libraries raise anything
        message = f"loading {spec.model!r} failed: {type(error).__name__}: {error}."
        send_frame(control, _encoded(ModelLoadError(message)))
        raise
    send_frame(control, LOADED)
    channels: set[Channel] = set()
    while True:
        channel = Channel(models, channels.discard)
        channels.add(channel)
        await channel.open(await arrivals.get())


def load_models(spec: ChildSpec) -> Models:
    """What the spec says; blocks. Raises what loading raises."""
    if spec.factory:
        module, _, name = spec.factory.partition(":")
        made = getattr(import_module(module), name)(spec)
        return made if isinstance(made, Models) else StaticModels(made)
    settings = Settings.from_environ()
    if settings.backend == OWN_BACKEND:
        settings = replace(settings, backend=None)
    model: DcModel = Registry().load(spec.model, spec.options, explicit=spec.backend, settings=settings)
    return StaticModels(model)


def _watch(control: socket.socket, hand_in: Callable[[socket.socket], object]) -> None:
    """Take sockets from the parent; when it is gone, so is this process."""
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(control, 1, 16)
        except OSError:
            data, descriptors = b"", []
        if not data:
            os._exit(0)
        for descriptor in descriptors:
            hand_in(socket.socket(fileno=descriptor))


def _encoded(error: DcModelError) -> bytes:
    frame = MSGPACK.encode([errors.to_wire(0, error)])
    assert isinstance(frame, bytes)
    return frame


class Channel:
    """One connection of the parent's."""

    def __init__(self, models: Models, on_closed: Callable[[Channel], None]) -> None:
        limits = ConnectionLimits(max_frame_bytes=MAX_FRAME_BYTES, mount_from=None)
        self._connection = ServerConnection(models, self._send, limits)
        self._protocol = FrameProtocol(self._on_frame, self._on_end, self._on_full)
        self._on_closed = on_closed
        self._closing: asyncio.Task[None] | None = None

    async def open(self, sock: socket.socket) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self._protocol, sock=sock)

    def _send(self, messages: list[ServerMessage]) -> None:
        frame = MSGPACK.encode(messages)
        assert isinstance(frame, bytes)
        self._protocol.send(frame)

    def _on_frame(self, frame: bytes) -> None:
        messages, bad = MSGPACK.decode_client(frame)
        self._connection.receive(messages, bad)

    def _on_full(self, is_full: bool) -> None:
        if is_full:
            self._connection.pause()
        else:
            self._connection.resume()

    def _on_end(self) -> None:
        self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        await self._connection.aclose()
        self._on_closed(self)


if __name__ == "__main__":
    main()
