"""The engine's end of a connection: frames in by calls that may overtake one another, frames out by one
stream of items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from lmql_backends.lmtp.protocol.codec import MSGPACK
from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.lmtp.server.limits import ConnectionLimits
from lmql_backends.lmtp.server.peers import Frame, MessagePeer

MAX_QUEUED_BYTES = 4 << 20
"""What waits for the stream to be read, before the model's streams pause."""
MAX_FRAME_BYTES = 256 << 20
"""Both ends are ours; the ingress has bounded what clients may send."""


class Channel:
    """LMTP, version 2, with one ingress. Belongs to one event loop.

    An item carries all frames that have come since the last one: about one for each step of the model, with
    the tokens of all its streams, and more of them where the items leave more slowly than the model steps.
    """

    def __init__(self, models: Models) -> None:
        limits = ConnectionLimits(max_streams=1 << 20, max_frame_bytes=MAX_FRAME_BYTES, mount_from=None)
        self._peer = MessagePeer(MSGPACK, models, limits, self._put)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._news = asyncio.Event()
        self._early: dict[int, bytes] = {}
        self._next = 0
        self._is_closed = False

    async def receive(self, index: int, frame: bytes) -> None:
        """Frame number `index`, from 0. Returns when everything that it began has ended: as long as it
        lasts, Serve counts a request, by which it scales and drains."""
        self._early[index] = frame
        before = self._peer.tasks
        while not self._is_closed and (ready := self._early.pop(self._next, None)) is not None:
            self._next += 1
            self._peer.receive(ready)
        begun = self._peer.tasks - before
        if begun:
            await asyncio.wait(begun)

    async def items(self) -> AsyncIterator[list[bytes]]:
        """The frames for the ingress, until the channel is closed; asked for once."""
        while not self._is_closed:
            await self._news.wait()
            self._news.clear()
            frames, self._out = self._out, []
            if self._out_bytes > MAX_QUEUED_BYTES:
                self._peer.resume()
            self._out_bytes = 0
            if frames:
                yield frames

    async def aclose(self) -> None:
        """Cancel what runs."""
        self._is_closed = True
        self._early.clear()
        self._news.set()
        await self._peer.aclose()

    def _put(self, frame: Frame) -> None:
        assert isinstance(frame, bytes)
        was_full = self._out_bytes > MAX_QUEUED_BYTES
        self._out.append(frame)
        self._out_bytes += len(frame)
        if not was_full and self._out_bytes > MAX_QUEUED_BYTES:
            self._peer.pause()
        self._news.set()
