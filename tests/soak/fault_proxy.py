"""A TCP proxy that resets connections after some bytes, and splits what it passes on."""

from __future__ import annotations

import asyncio
import socket
import struct
from random import Random

CHUNK = 1 << 14


class FaultProxy:
    """Stands between clients and a server; every fault follows from the seed.

    async with FaultProxy(server.port, seed=1, cut_after=(20_000, 200_000)) as proxy:
        connect(proxy.port)
    """

    def __init__(self, target: int, *, seed: int, cut_after: tuple[int, int] | None = None) -> None:
        """`cut_after`: between how many bytes a connection is reset; None: never."""
        self._target = target
        self._rng = Random(seed)
        self._cut_after = cut_after
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.connections = 0
        self.cuts = 0

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    def heal(self) -> None:
        """Cut nothing more."""
        self._cut_after = None

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        budget = [self._rng.randint(*self._cut_after)] if self._cut_after else [1 << 62]
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ways = [
            asyncio.create_task(self._pass_on(reader, far_writer, budget)),
            asyncio.create_task(self._pass_on(far_reader, writer, budget)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_cut = budget[0] <= 0
            self.cuts += is_cut
            for end in (writer, far_writer):
                _reset(end) if is_cut else end.close()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: list[int]
    ) -> None:
        try:
            while data := await reader.read(self._rng.randint(1, CHUNK)):
                budget[0] -= len(data)
                if budget[0] <= 0 and self._cut_after is not None:
                    return
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
