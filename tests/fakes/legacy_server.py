"""A websocket server that knows version 1 only, in a thread of its own: for LMQL's client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lmql_backends.lmtp.server.contracts import Models
from lmql_backends.lmtp.server.legacy import LegacyConnection


@contextmanager
def legacy_server(models: Models) -> Iterator[str]:
    """Its address, as LMQL's ``endpoint=`` takes it."""
    started: list[str] = []
    ready = threading.Event()
    ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        from websockets.asyncio.server import serve

        stop = asyncio.Event()
        ending.append((asyncio.get_running_loop(), stop))
        async with serve(lambda socket: _talk(socket, models), "127.0.0.1", 0, max_size=4 << 20) as server:
            started.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    ready.wait(30)
    try:
        yield started[0]
    finally:
        loop, stop = ending[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


async def _talk(socket, models: Models) -> None:
    frames: asyncio.Queue[str] = asyncio.Queue()
    connection = LegacyConnection(models, frames.put_nowait)
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(_write(socket, frames))
        async for frame in socket:
            connection.receive(frame)
        await connection.aclose()
        writer.cancel()


async def _write(socket, frames: asyncio.Queue[str]) -> None:
    from websockets.exceptions import ConnectionClosed

    while True:
        try:
            await socket.send(await frames.get())
        except ConnectionClosed:
            return
