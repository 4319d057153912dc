"""Frames on a stream of bytes: each after its length, four bytes, big-endian."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

LENGTH = struct.Struct("!I")
MAX_FRAME = 1 << 30
"""What is longer is no frame of ours."""


class FrameProtocol(asyncio.Protocol):
    """Splits what comes into frames, however it was cut. Belongs to one event loop."""

    def __init__(
        self,
        on_frame: Callable[[bytes], None],
        on_end: Callable[[], None],
        on_full: Callable[[bool], None] | None = None,
    ) -> None:
        """`on_end`: nothing more comes. `on_full`: whether more is waiting to be sent than should be."""
        self._on_frame = on_frame
        self._on_end = on_end
        self._on_full = on_full
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def send(self, frame: bytes) -> None:
        """Never blocks; what can no longer be sent is dropped."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines((LENGTH.pack(len(frame)), frame))

    def close(self) -> None:
        """Send what is waiting and close; `on_end` follows."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= LENGTH.size:
            (size,) = LENGTH.unpack_from(buffer, start)
            if size > MAX_FRAME:
                self.close()
                return
            end = start + LENGTH.size + size
            if len(buffer) < end:
                break
            frame = bytes(buffer[start + LENGTH.size : end])
            start = end
            self._on_frame(frame)
        del buffer[:start]

    def connection_lost(self, error: Exception | None) -> None:
        self._on_end()

    def pause_writing(self) -> None:
        if self._on_full is not None:
            self._on_full(True)

    def resume_writing(self) -> None:
        if self._on_full is not None:
            self._on_full(False)


def send_frame(sock: socket.socket, frame: bytes) -> None:
    """On a blocking socket."""
    sock.sendall(LENGTH.pack(len(frame)) + frame)


def receive_frame(sock: socket.socket) -> bytes:
    """On a blocking socket. Raises `EOFError` where it ends before the frame does."""
    (size,) = LENGTH.unpack(_exactly(sock, LENGTH.size))
    return _exactly(sock, min(size, MAX_FRAME))


def _exactly(sock: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = sock.recv(count - len(parts))
        if not part:
            raise EOFError("the other side is gone")
        parts += part
    return bytes(parts)
