"""A TCP proxy that resets connections after so many bytes from the server."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from itertools import repeat

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends RST."""


class CuttingProxy:
    """Listens while its context is open; connection i is cut after the i-th budget, None: never."""

    def __init__(self, port: int, budgets: Iterator[int | None] | None = None) -> None:
        self.target = port
        self.port = 0
        self.connections = 0
        self.cuts = 0
        self.refuses = False
        """Whether it resets everything that comes."""
        self._budgets = budgets if budgets is not None else repeat(None)
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut_all()
        await self._server.wait_closed()

    def cut_all(self) -> None:
        """Reset what is open."""
        for writer in list(self._open):
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuses:
            reset(writer)
            return
        budget = next(self._budgets, None)
        there, here = await asyncio.open_connection("127.0.0.1", self.target)
        self._open |= {writer, here}
        try:
            async with asyncio.TaskGroup() as group:
                upward = group.create_task(_copy(reader, here, None))
                await _copy(there, writer, budget)
                upward.cancel()
        finally:
            self.cuts += 1
            self._open -= {writer, here}
            reset(writer)
            reset(here)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
    try:
        while data := await reader.read(1 << 16):
            if budget is not None:
                data, budget = data[:budget], budget - len(data)
            writer.write(data)
            await writer.drain()
            if budget is not None and budget <= 0:
                return
    except OSError:
        return


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
